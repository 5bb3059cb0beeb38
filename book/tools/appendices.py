"""Sphinx extension: tables of the appendices, gathered when the book is built, so that they cannot drift from the chapters.

`{departures}` collects the "Departs from the paper" boxes. `{chapter-times}` shows what executing the chapters took and
on what; `{training-runs}` lists the runs behind the book, those made by this build and those recorded in data/runs. `{chaos}` and
`{soak}` show what the long tests recorded in data/reliability.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BOX = re.compile(r":::\{admonition\} Departs from the paper\n.*?\n\n(.*?)\n:::", re.DOTALL)


def chapters(book: Path) -> list[Path]:
    """The chapters, in order."""
    return sorted(book.glob("[0-9]*.ipynb"))


def departures(book: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(chapter, what and why, names of tests) for each point of each chapter's box."""
    for chapter in chapters(book):
        box = BOX.search((book / "src" / f"{chapter.stem}.md").read_text())
        assert box is not None, f"{chapter.stem} has no box"
        for point in re.split(r"\n- ", "\n" + box[1])[1:]:
            text, *tests = re.split(r" Tests?: ", re.sub(r"\s+", " ", point))
            yield chapter.stem, text, re.findall(r"`(test_\w+)`", "".join(tests))


def table(header: list[str], rows: list[list[str]], widths: str) -> str:
    """A list-table in MyST."""
    lines = [":::{list-table}", ":header-rows: 1", f":widths: {widths}", ""]
    for row in [header, *rows]:
        lines += [f"{'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(row)]
    return "\n".join([*lines, ":::"])


def departures_table(book: Path) -> str:
    """All departures, with their tests."""
    rows = [[f"[](../{chapter})", text, ", ".join(f"`{t}`" for t in tests)] for chapter, text, tests in departures(book)]
    return table(["chapter", "departure", "test"], rows, "16 50 34")


def times_table(book: Path) -> str:
    """Seconds of each chapter, and the machine and versions they hold for."""
    executed = {path.stem: nbformat.read(path, as_version=4).metadata["execution"] for path in chapters(book)}
    rows = [[f"[](../{name})", f"{run['seconds']:.0f}"] for name, run in executed.items()]
    rows.append(["all together", f"{sum(run['seconds'] for run in executed.values()):.0f}"])
    last = max(executed.values(), key=lambda run: str(run["date"]))
    where = sorted({run["machine"] for run in executed.values()})
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    said = f"Executed on {' and '.join(where)}; last on {last['date']}, with {versions}."
    return table(["chapter", "seconds"], rows, "70 30") + "\n\n" + said


def runs_table(book: Path) -> str:
    """Training runs: one row for the seeds of a setting."""
    made = [("this build", path) for path in sorted((book / "runs").glob("*/record.json"))]
    kept = [("recorded", path) for path in sorted((book.parent / "data" / "runs").rglob("record.json"))]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for when, path in made + kept:
        name = str(path.parent.relative_to(book.parent)).removeprefix("data/").removeprefix("book/")
        setting = re.sub(r"/\w+=[^/]+", "", re.sub(r"[-/]\d+$", "", name))  # a map's cells share a row
        groups.setdefault((setting, when), []).append(json.loads(path.read_text()))
    rows = [[f"`{setting}`", when, *run_cells(records)] for (setting, when), records in groups.items()]
    header = ["runs", "made", "model", "seeds", "seconds each", "status"]
    records = [record for group in groups.values() for record in group]
    where = sorted({f"{record['device']} with torch {record['versions']['torch']}" for record in records})
    return table(header, rows, "32 12 22 10 12 12") + f"\n\nAll on {' and '.join(where)}." if rows else "None yet."


def run_cells(records: list[dict[str, Any]]) -> list[str]:
    """Cells of the runs of one setting."""
    configs = [record["config"] for record in records]
    seconds = sorted({round(record["seconds"] / record.get("trained_together", 1)) for record in records})  # its share of them

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values))

    return [
        all_of(f"{c['model']} on {c['dataset']}" for c in configs),
        all_of(c["seed"] for c in configs),
        str(seconds[0]) if len(seconds) == 1 else f"{seconds[0]} to {seconds[-1]}",
        all_of(r["status"] for r in records),
    ]


def chaos_table(book: Path) -> str:
    """How often runs were killed and what came of it."""
    path = book.parent / "data" / "reliability" / "chaos.json"
    if not path.exists():
        return "Not recorded yet."
    record = json.loads(path.read_text())
    rows = [
        ["kills", record["kills"]],
        ["of these inside a save", record["kills_in_a_save"]],
        ["of these of one of two processes", record["kills_of_one_of_two_processes"]],
        ["runs that were killed, resumed, and compared with one left alone", record["runs"]],
        ["resumes", record["resumes"]],
        ["faults tried", record["faults"]],
        ["bad inputs tried", record["bad_inputs"]],
        ["runs lost", len(record["lost"])],
    ]
    return table(["what", "how often"], [[what, str(number)] for what, number in rows], "75 25") + made_on(record)


def soak_table(book: Path) -> str:
    """Memory and open files of long runs."""
    path = book.parent / "data" / "reliability" / "soak.json"
    if not path.exists():
        return "Not recorded yet."
    record = json.loads(path.read_text())
    header = ["run on", "iterations", "checkpoints", "bytes per iteration", "memory in MB", "open files"]
    rows = [
        [
            run["run"],
            f"{run['iterations']:,}",
            str(run["checkpoints"]),
            f"{run['bytes_per_iteration']:.1f}",
            " to ".join(f"{size:.0f}" for size in run["memory_mb"]),
            " to ".join(map(str, run["file_handles"])),
        ]
        for run in record["runs"]
    ]
    return table(header, rows, "14 18 16 20 18 14") + made_on(record)


def made_on(record: dict[str, Any]) -> str:
    """Machine, versions and day of a record."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"\n\nOn {record['machine']}, {record['date']}, with {versions}."


class _Gathered(SphinxDirective):
    """Parses generated MyST in place."""

    def text(self, book: Path) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        book = Path(self.env.srcdir) / "book"
        node = nodes.container()
        lines = self.text(book).splitlines()
        self.state.nested_parse(StringList(lines, source="gathered"), self.content_offset, node)
        self.env.note_reread()
        return node.children


class Departures(_Gathered):
    """Table of departures."""

    def text(self, book: Path) -> str:
        """MyST."""
        return departures_table(book)


class ChapterTimes(_Gathered):
    """Table of seconds."""

    def text(self, book: Path) -> str:
        """MyST."""
        return times_table(book)


class TrainingRuns(_Gathered):
    """Table of runs."""

    def text(self, book: Path) -> str:
        """MyST."""
        return runs_table(book)


class Chaos(_Gathered):
    """Table of kills and faults."""

    def text(self, book: Path) -> str:
        """MyST."""
        return chaos_table(book)


class Soak(_Gathered):
    """Table of memory and open files."""

    def text(self, book: Path) -> str:
        """MyST."""
        return soak_table(book)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("departures", Departures)
    app.add_directive("chapter-times", ChapterTimes)
    app.add_directive("training-runs", TrainingRuns)
    app.add_directive("chaos", Chaos)
    app.add_directive("soak", Soak)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
