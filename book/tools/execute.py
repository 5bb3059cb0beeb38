"""Execute the chapters whose code, package or pins have changed since their outputs were stored;
leave the others alone.

usage: python book/tools/execute.py [--force] NOTEBOOK ...
The text of each notebook is first taken over from its MyST pair in book/src, which is what people
edit. A notebook with a `parameters` cell is a template for papermill and keeps no outputs. Each
chapter stores under metadata.execution what its outputs were computed from, the seconds it took,
and on what.
"""

import argparse
import datetime
import hashlib
import os
import platform
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from asintrovae.files import PACKAGE
from asintrovae.running.provenance import code_hash, meaning, versions
from nbclient import NotebookClient
from tqdm import tqdm

from repository import configured, requirement

ROOT = Path(__file__).resolve().parents[2]


OF_CLAIMS = ("evaluation/statistics.py", "sweeps/claims.py")
"""Code behind the numbers of pages on claims, which no run depends on."""


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """Hash of everything the outputs depend on: code cells in order, package, pinned versions,
    recorded runs.

    The address and the release that a missing package is installed from are left out: the project
    can move, and a new release computes the same where the package is the same.
    """
    installed = requirement(configured(ROOT))
    digest = hashlib.sha256(code_hash().encode() + (ROOT / "constraints.txt").read_bytes())
    for path in sorted((ROOT / "data").rglob("record.json")):
        digest.update(path.read_bytes())
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    if any("asintrovae.sweeps.claims" in source for source in sources):
        for name in OF_CLAIMS:
            digest.update(meaning(PACKAGE / name).encode())
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(installed.sub("git+", cell.source).encode() + b"\0")
    return digest.hexdigest()


def execute(path: Path) -> None:
    """Run all cells from the notebook's folder and store their outputs, widgets included."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    start = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        store_widget_state=True,
        coalesce_streams=True,  # else one printed line can be stored in two pieces
        resources={"metadata": {"path": str(path.parent)}},
        kernel_name="python3",
    )
    client.execute()
    seconds = round(time.monotonic() - start, 1)
    notebook.metadata["execution"] = {
        "fingerprint": fingerprint(notebook),
        "seconds": seconds,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
    }
    notebook.metadata.pop(
        "language_info", None
    )  # the version of Python is nobody's change to review
    nbformat.write(notebook, path)


def stale(path: Path) -> bool:
    """Return whether a chapter's stored outputs come from something else than what is here now."""
    notebook = nbformat.read(path, as_version=4)
    if any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        return False
    return notebook.metadata.get("execution", {}).get("fingerprint") != fingerprint(notebook)


def take_over_text(path: Path) -> None:
    """Bring the edits of the MyST pair into the notebook; unchanged cells keep their outputs."""
    pair = ROOT / "book" / "src" / path.resolve().relative_to(ROOT / "book").with_suffix(".md")
    text, notebook = (
        jupytext.read(pair),
        nbformat.read(path, as_version=4) if path.exists() else None,
    )
    if notebook is not None:
        if [(c.cell_type, c.source, c.metadata) for c in text.cells] == [
            (c.cell_type, c.source, c.metadata) for c in notebook.cells
        ]:
            return
        text = jupytext.combine.combine_inputs_with_outputs(text, notebook)
    nbformat.write(text, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--force", action="store_true", help="execute all, stale or not")
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        take_over_text(path)
    todo = [path for path in arguments.notebooks if arguments.force or stale(path)]
    print(
        f"{len(todo)} of {len(arguments.notebooks)} notebooks to execute",
        file=sys.stderr,
    )
    for path in tqdm(todo, desc="chapters", disable=not todo):
        execute(path)


if __name__ == "__main__":
    main()
