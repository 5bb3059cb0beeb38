"""How the chapters read, in counts: words, long sentences, visible code, bare booleans.

usage: python book/tools/counts.py [--at REVISION] [NAME ...]
With --at the chapters of a revision of git are counted, so that two states can be compared.
"""

import argparse
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
LONG = 35
"""Words of a sentence that a reader has to start again."""
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell", "setup"}
NOT_PROSE = (
    r"(?ms)^```.*?^```",  # fences
    r"(?s)\$\$.*?\$\$(?: \([\w-]+\))?",  # displayed equations
    r"(?m)^(:::|\||#|:\w+:|    |\[!\[|\*Runs in).*$",  # frames, tables, headings, badges
)
SHORT = r"\{[\w:]+\}`[^`]*`|`[^`]*`|\$[^$]*\$|\[\]\([^)]*\)"
"""Roles, code, formulas and references, each of which counts as a word."""


def chapters(revision: str | None) -> Iterator[tuple[str, nbformat.NotebookNode]]:
    """Return names and notebooks of the chapters, of a revision or as they are."""
    for path in sorted((ROOT / "book").glob("[0-9]*.ipynb")):
        if revision is None:
            text = path.read_text()
        else:
            shown = ["git", "show", f"{revision}:book/{path.name}"]
            text = subprocess.run(
                shown, cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
        yield path.stem, nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]


def sentences(text: str) -> list[str]:
    """Return the sentences of Markdown."""
    for pattern in NOT_PROSE:
        text = re.sub(pattern, " ", text)
    text = re.sub(SHORT, "X", text)
    return [s for s in re.split(r"(?<=[.!?:])\s+|\n\s*\n|\n\s*- ", text) if s.strip()]


def draws(cell: nbformat.NotebookNode) -> bool:
    """Return whether a cell makes a picture."""
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def counts(notebook: nbformat.NotebookNode) -> dict[str, int]:
    """Return the counts of a chapter."""
    markdown = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    said = [sentence for text in markdown for sentence in sentences(text)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    seen = [cell for cell in code if not FOLDED & set(cell.metadata.get("tags", []))]
    printed = [
        line
        for cell in code
        if "setup" not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.get("name") == "stdout"
        for line in output.text.splitlines()
    ]
    return {
        "words": sum(len(sentence.split()) for sentence in said),
        "long sentences": sum(len(sentence.split()) > LONG for sentence in said),
        "code cells": len(code),
        "visible lines": sum(len([x for x in c.source.splitlines() if x.strip()]) for c in seen),
        "drawing, folded": sum(draws(cell) for cell in code) - sum(map(draws, seen)),
        "drawing, visible": sum(map(draws, seen)),
        "legends": sum(".legend(" in cell.source for cell in code if draws(cell)),
        "bare booleans": sum(bool(re.search(r"\b(True|False)\s*$", line)) for line in printed),
    }


def table(rows: Mapping[str, Mapping[str, int]]) -> str:
    """Return the counts as aligned text, with their sum."""
    columns = list(next(iter(rows.values())))
    total = {name: sum(row[name] for row in rows.values()) for name in columns}
    lines = [f"{'chapter':24s}" + "".join(f"{name:>18s}" for name in columns)]
    for name, row in (*rows.items(), ("all", total)):
        lines.append(f"{name:24s}" + "".join(f"{row[column]:18d}" for column in columns))
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    summary, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=usage)
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 01; none: all")
    parser.add_argument("--at", help="a revision of git")
    arguments = parser.parse_args()
    names = tuple(arguments.names or [""])
    rows = {name: counts(book) for name, book in chapters(arguments.at) if name.startswith(names)}
    if not rows:
        parser.error(f"names {arguments.names}: no chapter begins so")
    print(table(rows))


if __name__ == "__main__":
    main()
