"""The table of what is finished in a grid."""

from pathlib import Path
from typing import Any

from asintrovae.running.records import read_record, write_csv
from asintrovae.sweeps.grid import COLUMNS, TABLE, Point
from asintrovae.sweeps.status import DONE, status_of


def write_table(run_dir: Path, points: list[Point]) -> str:
    """Write table.csv, a row for each finished or diverged point; return a line that says so."""
    rows = [table_row(point) for point in points if status_of(point) in DONE]
    if not rows:
        return "no table: no point is finished"
    write_csv(run_dir / TABLE, rows)
    return f"{run_dir / TABLE}: {len(rows)} rows"


def table_row(point: Point) -> dict[str, Any]:
    """Return a recorded point as a row of the table."""
    record = read_record(point.run_dir / "record.json")
    diverged = record["diverged"] or {"iteration": None, "term": None}
    values = point.seed, record["status"], diverged["iteration"], diverged["term"]
    origin = record["seconds"], record["code"], record["versions"]["torch"], record["device"]
    return {
        **point.labels,
        **dict(zip(COLUMNS, values + origin, strict=True)),
        **record["metrics"],
        **point.labels,
    }
