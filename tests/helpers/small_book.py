"""A book of two pages that is built in seconds, with the configuration of the real one."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import nbformat
import yaml
from conftest import ROOT

CHAPTER = """# A small chapter

*Runs in under 60 seconds on two CPU cores, no GPU, no download.*

Six hundred words. {}

$$ D = 0 $$ (eq-small)

By {{eq}}`eq-small` nothing is left; `test_nothing_is_left` holds it to $D$.

:::{{exercise}} None
:label: ex-small
Is $D$ zero?
:::

:::{{solution}} ex-small
:class: dropdown
A solution that was folded.
:::

:::{{quiz}}
Which axis has $\\lambda = 1$?

- [ ] The first

  It moves with the data.
- [x] The second, $z_2$

  Its posterior equals the prior, $\\mathrm{{KL}} = 0$.
:::
"""


def small_chapter() -> nbformat.NotebookNode:
    """A chapter with an equation, a folded solution, a cell and the record of its execution."""
    code = nbformat.v4.new_code_cell("print('witness:', True)", execution_count=1)
    code.outputs = [nbformat.v4.new_output("stream", name="stdout", text="witness: True\n")]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(CHAPTER.format("word " * 597)), code]
    )
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.metadata["execution"] = {
        "seconds": 12.4,
        "machine": "Linux x86_64, 2 cores",
        "versions": {},
        "date": "2026-01-01",
    }
    return notebook


def build_small_book(root: Path, pages: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Build it below root and return the folder of its pages; fails on any warning.

    pages: further ones, name -> text.
    """
    (root / "book").mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", root)
    for name in ("static", "tools"):
        shutil.copytree(ROOT / "book" / name, root / "book" / name)
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    chapters = [{"file": f"book/{name}"} for name in ("01_small", *pages)]
    toc = {"format": "jb-book", "root": "book/index", "chapters": chapters}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    (root / "book" / "index.md").write_text("# A small book\n\nIts only chapter is [](01_small).\n")
    for name, text in pages.items():
        page = root / "book" / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
    (root / "tests").mkdir()
    (root / "tests" / "test_small.py").write_text("\n\ndef test_nothing_is_left():\n    pass\n")
    nbformat.write(small_chapter(), root / "book" / "01_small.ipynb")
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(root),
        "-W",
        "-n",
        "--keep-going",
        "-q",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return root / "_build" / "html"
