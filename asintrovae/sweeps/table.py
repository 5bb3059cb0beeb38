"""The state of every point of a grid, and the table of what is finished."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asintrovae.config import ParameterError, differences, with_defaults
from asintrovae.running.checkpoint import load_checkpoint
from asintrovae.running.provenance import FREE_PARAMETERS
from asintrovae.running.records import damage, read_record, write_csv
from asintrovae.sweeps.grid import COLUMNS, TABLE, Point

DONE = ("finished", "diverged")


EVALUATED = {"evaluation_samples", "feature_network", "fid_precision"}
"""Free while a run trains, but a record's metrics depend on them."""


def status_of(point: Point) -> str:
    """Return what the folder of a point says of its run.

    Args:
        point: of a grid.

    Returns:
        finished, diverged, waiting, interrupted at iteration k of n, or damaged, with the file and
        the reason: the run of a damaged record is to be run again from its checkpoint, that of
        damaged checkpoints fails.

    Raises:
        ParameterError: with the differences, if the folder holds a run with other parameters.
    """
    path = point.run_dir / "record.json"
    damaged = damage(path) if path.exists() else ""
    if path.exists() and not damaged:
        record = read_record(path)
        check_others(point, record["config"], FREE_PARAMETERS - EVALUATED)
        return str(record["status"])
    try:
        checkpoint = load_checkpoint(point.run_dir)
    except ParameterError as error:
        return f"damaged ({error})"
    if checkpoint is not None:
        check_others(point, checkpoint.meta["config"], FREE_PARAMETERS)
    if damaged:
        return f"damaged ({damaged})"
    if checkpoint is None:
        return "waiting"
    return f"interrupted at iteration {checkpoint.meta['iteration']} of {point.config.iterations}"


def check_others(point: Point, there: Mapping[str, Any], free: set[str]) -> None:
    """Raise ParameterError if the run in the point's folder differs in parameters not in `free`."""
    if found := differences(with_defaults(there), point.config.model_dump(mode="json"), free):
        other = f"'{point.run_dir}' holds another run ({found})"
        raise ParameterError(f"{point.name}: {other}; remove it, or choose another --run-dir")


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
