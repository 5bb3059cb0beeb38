"""Sphinx extension: tables of the appendices, gathered when the book is built, so that they cannot
drift from the chapters.

`{departures}` collects the "Departs from the paper" boxes. `{chapter-times}` shows what executing
the chapters took and on what; `{training-runs}` lists the runs behind the book, those made by this
build and those recorded in data/runs. `{chaos}` and `{soak}` show what the long tests recorded in
data/reliability. `{trained-models}` lists the models of data/pretrained with their cards.
`{speed} distance` and its like show what `make bench` recorded in
benchmarks/results; `{speed} chart` draws it. `{roofline} 32-true` and its like show the estimates
for GPUs that `python -m benchmarks.roofline` recorded there.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from asintrovae.trained import card_text, model_card, pretrained, shown
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

BOX = re.compile(r":::\{admonition\} Departs from the paper\n.*?\n\n(.*?)\n:::", re.DOTALL)


def chapters(book: Path) -> list[Path]:
    """The chapters, in order."""
    return sorted(book.glob("[0-9]*.ipynb"))


def points(items: str) -> Iterator[tuple[str, list[str]]]:
    """(text, names of tests) for each item of a list in MyST."""
    for item in re.split(r"\n- ", "\n" + items)[1:]:
        text, *tests = re.split(r" Tests?: ", re.sub(r"\s+", " ", item).strip())
        yield text, re.findall(r"`(test_\w+)`", "".join(tests))


def departures(book: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(chapter, what and why, names of tests) for each point of each chapter's box."""
    for chapter in chapters(book):
        box = BOX.search((book / "src" / f"{chapter.stem}.md").read_text())
        assert box is not None, f"{chapter.stem} has no box"
        for text, tests in points(box[1]):
            yield chapter.stem, text, tests


def table(header: list[str], rows: list[list[str]], widths: str) -> str:
    """A list-table in MyST."""
    lines = [":::{list-table}", ":header-rows: 1", f":widths: {widths}", ""]
    for row in [header, *rows]:
        lines += [f"{'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(row)]
    return "\n".join([*lines, ":::"])


def departures_table(book: Path) -> str:
    """All departures, with their tests."""
    rows = [
        [f"[](../{chapter})", text, ", ".join(f"`{t}`" for t in tests)]
        for chapter, text, tests in departures(book)
    ]
    return table(["chapter", "departure", "test"], rows, "16 50 34")


def times_table(book: Path) -> str:
    """Seconds of each chapter, and the machine and versions they hold for."""
    executed = {
        path.stem: nbformat.read(path, as_version=4).metadata["execution"]
        for path in chapters(book)
    }
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
    kept = [
        ("recorded", path) for path in sorted((book.parent / "data" / "runs").rglob("record.json"))
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for when, path in made + kept:
        name = str(path.parent.relative_to(book.parent)).removeprefix("data/").removeprefix("book/")
        setting = re.sub(
            r"/\w+=[^/]+", "", re.sub(r"[-/]\d+$", "", name)
        )  # a map's cells share a row
        groups.setdefault((setting, when), []).append(json.loads(path.read_text()))
    rows = [
        [f"`{setting}`", when, *run_cells(records)] for (setting, when), records in groups.items()
    ]
    header = ["runs", "made", "model", "seeds", "seconds each", "status"]
    records = [record for group in groups.values() for record in group]
    where = sorted(
        {f"{record['device']} with torch {record['versions']['torch']}" for record in records}
    )
    return (
        table(header, rows, "32 12 22 10 12 12") + f"\n\nAll on {' and '.join(where)}."
        if rows
        else "None yet."
    )


def run_cells(records: list[dict[str, Any]]) -> list[str]:
    """Cells of the runs of one setting."""
    configs = [record["config"] for record in records]
    seconds = sorted(
        {round(record["seconds"] / record.get("trained_together", 1)) for record in records}
    )  # its share of them

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
    return table(
        ["what", "how often"], [[what, str(number)] for what, number in rows], "75 25"
    ) + made_on(record)


def soak_table(book: Path) -> str:
    """Memory and open files of long runs."""
    path = book.parent / "data" / "reliability" / "soak.json"
    if not path.exists():
        return "Not recorded yet."
    record = json.loads(path.read_text())
    header = [
        "run on",
        "iterations",
        "checkpoints",
        "bytes per iteration",
        "memory in MB",
        "open files",
    ]
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


def trained_models() -> str:
    """Return a table of the trained models, and below it their cards, folded."""
    header = ["name", "kB", "seeds", "score", "value"]
    rows = pretrained().rows
    cells = [[f"`{row['name']}`", *map(str, (row["kB"], row["seeds"]))] for row in rows]
    scores = [[row["score"], shown(row["value"])] for row in rows]
    listed = [line + score for line, score in zip(cells, scores, strict=True)]
    cards = []
    for row in rows:
        text = card_text(model_card(row["name"])).split("\n", 2)[2]
        cards.append(f":::{{dropdown}} {row['name']}\n{text}:::")
    return "\n\n".join([table(header, listed, "34 12 12 26 16"), *cards])


def results(book: Path) -> list[dict[str, Any]]:
    """What `make bench` recorded, one of each machine."""
    return [
        json.loads(path.read_text())
        for path in sorted((book.parent / "benchmarks" / "results").glob("*.json"))
    ]


def times_as(ratio: float) -> str:
    """A ratio in words."""
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def milliseconds(seconds: float) -> str:
    """Three digits, or all before the point."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def distance_table(found: dict[str, Any]) -> str:
    """Time and memory of the AS-Distance against dense eager code."""
    header = [
        "B",
        "n",
        "kernel",
        "members",
        "threads",
        "dense, ms",
        "ours, ms",
        "faster",
        "less memory",
    ]
    rows = [
        [
            *(str(row[name] or "") for name in ("B", "n", "kernel", "members", "threads")),
            *(milliseconds(row[f"{name}_seconds"]) for name in ("dense", "package")),
            *(times_as(row[name]) for name in ("faster", "smaller")),
        ]
        for row in found["rows"]
    ]
    large, huge = found["large"], found["processes"]["package 4096 x 512"]
    said = [
        f"At B = 512, n = 256 ours takes {1 / large['share_of_floor']:.1f} times as long"
        " as its operations one by one on",
        f"an array that stays in the cache; {large['dense_share_of_stream']:.0%} of the time"
        " of the dense code is what its",
        f"{large['dense_bytes_made'] / 1e9:.0f} GB of new arrays take at the speed of memory."
        " B = 4096, n = 512 takes a process",
        f"{huge['seconds']:.0f} seconds and {huge['most'] / 1e9:.1f} GB in all.",
    ]
    return table(header, rows, "8 8 12 12 12 12 12 12 12") + "\n\n" + "\n".join(said)


def step_table(found: dict[str, Any]) -> str:
    """An iteration against the published loop's work."""
    widths = found["loops"][0]["widths"]
    header = [
        f"S-IntroVAE, {len(widths)} x {widths[0]}, B = 512",
        "ms",
        "GFLOP",
        "of the peak",
        "iterations per second",
    ]
    first = found["rows"]["published"]["seconds"]
    rows = [
        [
            name,
            f"{1e3 * row['seconds']:.1f}",
            f"{row['operations'] / 1e9:.2f}",
            f"{row['share_of_peak']:.0%}",
            f"{first / row['seconds']:.2f} times",
        ]
        for name, row in found["rows"].items()
    ]
    costs = ", ".join(f"`{name}` {share:.0%}" for name, share in found["costs"].items())
    said = (
        f"The peak, {found['peak'] / 1e9:.0f} GFLOP/s, is a product of two matrices of 1024 x 1024."
    )
    return table(header, rows, "32 16 16 16 20") + f"\n\n{said} Largest costs of ours: {costs}."


def loops_table(found: dict[str, Any]) -> str:
    """What the loop adds to losses, gradients and steps."""
    rows = [
        [
            f"`{row['model']}`, {len(row['widths'])} x {row['widths'][0]}, B = {row['batch_size']}",
            f"{1e3 * row['bare_seconds']:.2f}",
            f"{row['overhead']:.1%}",
        ]
        for row in found["loops"]
    ]
    return table(["iteration", "bare, ms", "the loop adds"], rows, "50 25 25")


def stages_table(found: dict[str, Any]) -> str:
    """Seconds of the stages of `make book` and `make test`."""
    stages = {
        "runs": "two demonstration runs, side by side",
        "chapters": "chapters, where stale",
        "pages": "pages",
        "types": "types",
        "tests": "tests",
    }
    rows = [
        [what, f"{found['stages'][name]:.0f}"]
        for name, what in stages.items()
        if name in found.get("stages", {})
    ]
    return table(["stage", "seconds"], rows, "70 30") if rows else "No build was timed."


def clone_table(found: dict[str, Any]) -> str:
    """Return the seconds of `make test` and `make book` from a fresh clone, a row per commit."""
    header = ["commit", "day", "`make test`", "of which the tests", "`make book`"]
    rows = [
        [
            f"`{row['commit']}`",
            row["date"],
            f"{row['test']['seconds']:.0f}",
            f"{row['test']['stages']['tests']:.0f}",
            f"{row['book']['seconds']:.0f}",
        ]
        for row in found["rows"]
    ]
    return table(header, rows, "20 20 20 20 20")


def compiled_table(found: dict[str, Any]) -> str:
    """Break-even of torch.compile."""
    rows = []
    for name, row in found["compiled"].items():
        if row is None:
            rows.append([name, "no compiler", "", "", "", ""])
            continue
        after = f"after {row['breaks_even']:,.0f}" if row["breaks_even"] else "never"
        times = [f"{1e3 * row[f'{kind}_seconds']:.1f}" for kind in ("compiled", "eager")]
        rows.append(
            [name, f"{row['compile_seconds']:.0f}", *times, after, f"{row['iterations']:,}"]
        )
    header = ["run", "to compile, s", "compiled, ms", "eager, ms", "pays", "iterations of the run"]
    return table(header, rows, "15 17 17 17 17 17")


def cuda_table(found: dict[str, Any]) -> str:
    """Images on CUDA, where they were measured."""
    row = found.get("cuda")
    if not row:
        return (
            "Not measured: no CUDA machine was at hand. "
            "The rows are run wherever `make bench` finds one."
        )
    costs = ", ".join(f"`{name}` {share:.0%}" for name, share in row["costs"].items())
    ours = [f"{1e3 * row['ours_seconds']:.2f}", times_as(row["faster"]), str(row["waits"])]
    header = ["S-IntroVAE on digits, published widths", "ms", "faster", "waits for the device"]
    rows = [["plain eager float32", f"{1e3 * row['eager_seconds']:.2f}", "1", ""], ["ours", *ours]]
    return (
        table(header, rows, "46 18 18 18")
        + f"\n\nOn {row['device']}. Largest costs of ours: {costs}."
    )


def draw_distance(measured: list[dict[str, Any]]) -> Any:
    """Time and memory of the AS-Distance against B, a pair of curves for each n."""
    import matplotlib.pyplot as plt  # here, so that a build without results does not wait for it
    from asintrovae.figures.style import BLUE, GREEN, ORANGE

    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.0))
    most = max(row["threads"] for row in measured)
    rows = [
        row
        for row in measured
        if row["kernel"] == "mean" and not row["members"] and row["threads"] == most
    ]
    sizes = sorted({row["n"] for row in rows if sum(other["n"] == row["n"] for other in rows) > 2})
    for n, color in zip(sizes, (BLUE, ORANGE, GREEN), strict=False):
        curve = sorted(
            {row["B"]: row for row in rows if row["n"] == n}.values(), key=lambda row: row["B"]
        )
        for ax, unit, scale in zip(axes, ("seconds", "bytes"), (1e3, 1e-6), strict=True):
            for name, style in (("dense", "--"), ("package", "-")):
                label = f"n = {n}" if name == "package" else None
                heights = [scale * row[f"{name}_{unit}"] for row in curve]
                ax.plot([row["B"] for row in curve], heights, style, color=color, label=label)
            tiles = [row for row in curve if row["path"] == "tiles"]
            heights = [scale * row[f"package_{unit}"] for row in tiles]
            ax.plot([row["B"] for row in tiles], heights, "o", color=color, ms=5)
    for ax, label in zip(axes, ("ms, forward and backward", "MB at the most"), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="B", ylabel=label)
        ax.set_xticks([32, 64, 128, 256, 512], ["32", "64", "128", "256", "512"], minor=False)
        ax.minorticks_off()
    axes[0].plot([], [], "--", color="grey", label="dense")
    axes[0].plot([], [], "o", color="grey", label="in tiles")
    axes[0].legend(fontsize="small")
    return figure


def chart(found: dict[str, Any], where: Path) -> str:
    """The figure of `draw_distance`, drawn into `where`."""
    import matplotlib.pyplot as plt
    from asintrovae.figures.plots import save_figure
    from asintrovae.figures.style import use_style

    with plt.rc_context():  # the style is for this figure alone
        use_style()
        figure = draw_distance(found["rows"])
        where.mkdir(parents=True, exist_ok=True)
        save_figure(figure, where, "speed.png")
        plt.close(figure)
    return CHART


CHART = """\
:::{figure} /_build/speed/speed.png
:name: fig-speed-distance
:alt: Time and memory over the batch size. For each number of latent axes a dashed and a solid
  curve, apart for large batches.

Time and memory of the AS-Distance with the per-axis kernel, forward and backward: dense eager code
(dashed) against the package (solid). A dot marks sizes where the package works in tiles; elsewhere
all pairs are one tile.
:::"""


SPEED = {
    "distance": ("distance", distance_table),
    "step": ("training_step", step_table),
    "loops": ("training_step", loops_table),
    "compiled": ("training_step", compiled_table),
    "cuda": ("training_step", cuda_table),
    "stages": ("book", stages_table),
    "clone": ("clone", clone_table),
}


def speed(book: Path, part: str) -> str:
    """One of SPEED, or the chart, of every machine on which it was recorded."""
    name, show = SPEED.get(
        part, ("distance", lambda found: chart(found, book.parent / "_build" / "speed"))
    )
    found = [record[name] for record in results(book) if name in record]
    if not found:
        return "Not recorded yet."
    if part == "chart":
        return show(found[0])
    return "\n\n".join(show(record) + "\n\n" + on_machine(record["machine"]) for record in found)


def roofline(book: Path, part: str) -> str:
    """Return a table of the estimates for GPUs.

    Args:
        book: its folder.
        part: "work" of an iteration, "cards", "models", "own" images, or hours with a precision.
    """
    path = book.parent / "benchmarks" / "results" / "roofline.json"
    record = json.loads(path.read_text())["roofline"]
    if part == "cards":
        return cards_table(record["cards"])
    rows = sorted(record["rows"], key=lambda row: float(row["cards"]["T4"]["32-true"]["hours"][0]))
    if part == "own":
        own = alike([row for row in rows if row["params"].startswith("own-")])
        kinds = {"In float32:": "32-true", "Layers in bfloat16, if the card has it:": "bf16-mixed"}
        tables = [(title, hours_table(record["cards"], own, kind)) for title, kind in kinds.items()]
        return "\n\n".join(part for pair in tables for part in pair)
    if part == "models":
        several = next(row["params"] for row in rows if row["model"] != "soft_intro")
        models = [(f"`{row['model']}`", row) for row in rows if row["params"] == several]
        return hours_table(record["cards"], models)
    kinds = alike([row for row in rows if row["model"] == "soft_intro"])
    return work_table(kinds) if part == "work" else hours_table(record["cards"], kinds, part)


def alike(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return (names, row) for each kind of row; settings C1 to C3 of a data set cost the same."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps({**row, "params": ""}), []).append(row)
    found = []
    for group in groups.values():
        names = dict.fromkeys(re.sub(r"-c\d$", "", row["params"]) for row in group)
        found.append((", ".join(f"`{name}`" for name in names), group[0]))
    return found


def work_table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Return the work of an iteration in float32."""
    cells = []
    for label, row in rows:
        work = row["work"]["32-true"]
        sizes = [work[name] / 1e9 for name in ("flop", "bytes", "peak")]
        shown = [f"{size:,.0f}" if size >= 9.995 else f"{size:.2f}" for size in sizes]
        cells.append([label, f"{work['launches']:,}", *shown])
    header = ["run", "launches", "GFLOP", "GB moved", "GB held"]
    return table(header, cells, "28 18 18 18 18")


def hours_table(
    cards: dict[str, Any], rows: list[tuple[str, dict[str, Any]]], precision: str = "32-true"
) -> str:
    """Return the estimated time of whole runs on the cards that have a precision."""
    names = [name for name, card in cards.items() if precision in card["peaks"]]
    counted = "32-true" if precision == "tf32" else precision
    cells = []
    for label, row in rows:
        held, line = row["work"][counted]["peak"], [label]
        for name in names:
            found, memory = row["cards"][name][precision], cards[name]["memory"]
            fits = f"{duration(found['hours'])}, {found['bound']}"
            line.append(fits if held < memory else f"needs {held / 1e9:.0f} GB")
        cells.append(line)
    return table(["run", *names], cells, " ".join(["25"] * (len(names) + 1)))


def duration(hours: list[float]) -> str:
    """Return a time, and the range of the overhead of a launch where it adds more than a fifth."""
    units = {"h": 1, "min": 60, "s": 3600}
    unit = next((u for u, scale in units.items() if hours[0] * scale >= 1), "s")
    scaled = [hour * units[unit] for hour in hours]
    said, least, most = (f"{x:.0f}" if x >= 9.95 else f"{x:.1f}" for x in scaled)
    return f"{said} {unit}" + f" ({least} to {most})" * (hours[2] > 1.2 * hours[0])


def cards_table(cards: dict[str, Any]) -> str:
    """Return the published figures that the estimates use."""
    cells = []
    for name, card in cards.items():
        peaks = [card["peaks"].get(kind) for kind in ("32-true", "tf32", "bf16-mixed")]
        rates = [f"{peak / 1e12:.3g}" if peak else "none" for peak in peaks]
        sizes = [f"{card[key] / 1e9:,.0f}" for key in ("memory", "bandwidth")]
        cells.append([name, *sizes, *rates])
    header = ["card", "GB", "GB/s", "float32", "TF32", "bfloat16"]
    return table(header, cells, "15 15 17 18 17 18")


def on_machine(machine: dict[str, Any]) -> str:
    """Where it was measured."""
    versions = f"Python {machine['python']}, torch {machine['torch']}"
    return (
        f"On {machine['processor']}, {machine['threads']} threads, {machine['system']}, "
        f"with {versions}."
    )


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


class TrainedModels(_Gathered):
    """Table and cards of the trained models."""

    def text(self, book: Path) -> str:
        """MyST."""
        return trained_models()


class Speed(_Gathered):
    """A table of benchmarks, or the chart."""

    required_arguments = 1

    def text(self, book: Path) -> str:
        """MyST."""
        return speed(book, self.arguments[0])


class Roofline(_Gathered):
    """A table of estimates for GPUs."""

    required_arguments = 1

    def text(self, book: Path) -> str:
        """MyST."""
        return roofline(book, self.arguments[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("departures", Departures)
    app.add_directive("chapter-times", ChapterTimes)
    app.add_directive("training-runs", TrainingRuns)
    app.add_directive("chaos", Chaos)
    app.add_directive("soak", Soak)
    app.add_directive("trained-models", TrainedModels)
    app.add_directive("speed", Speed)
    app.add_directive("roofline", Roofline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
