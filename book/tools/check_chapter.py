"""Check one chapter: execute it if it is stale, hold it to the mould, run it again against its
outputs, build its page.

usage: python book/tools/check_chapter.py 05_as_distance
"""

import difflib
import re
import subprocess
import sys
from pathlib import Path

from execute import ROOT

BIN = Path(sys.executable).parent
FAST = "not executes and not changed_outputs and not wheel"
QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|: ([\w./-]+)$")
LABEL = re.compile(
    r"(?m)^\(([\w-]+)\)=|^:(?:label|name): ([\w-]+)|^ +name: ([\w-]+)"
    r"|\$\$ \(([\w-]+)\)|^:::?\{\w+-start\} ([\w-]+)",
)


def found(name: str) -> Path:
    """The text of a chapter; ValueError with the nearest names where there is none."""
    path = ROOT / "book" / "src" / f"{name}.md"
    if not path.is_file():
        names = sorted(path.stem for path in path.parent.glob("[0-9]*.md"))
        near = difflib.get_close_matches(name, names, n=1)
        out = f"did you mean {near[0]!r}?" if near else f"there are {names[0]} to {names[-1]}"
        raise ValueError(f"CHAPTER={name!r} is no chapter in book/src; {out}")
    return path


def run(*command: object) -> None:
    """Run from the root; SystemExit with its code where it fails."""
    code = subprocess.run([str(part) for part in command], cwd=ROOT).returncode
    if code:
        raise SystemExit(code)


def known_elsewhere() -> set[str]:
    """Names of pages and labels that a chapter can refer to in the rest of the book."""
    pages = [*ROOT.glob("book/*.md"), *ROOT.glob("book/*/*.md")]
    labels = {
        label
        for page in pages
        for match in LABEL.findall(page.read_text())
        for label in match
        if label
    }
    return labels | {page.stem for page in pages}


def headings_elsewhere() -> set[str]:
    """Anchors of headings: a reference may name one."""
    headings = re.findall(
        r"(?m)^#+ (.+)$", "".join(page.read_text() for page in ROOT.glob("book/**/*.md"))
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def build_page(name: str) -> list[str]:
    """Build the page with the two that it leans on; the warnings about it, but for references to
    pages left out."""
    folder = ROOT / "_build" / "check"
    folder.mkdir(parents=True, exist_ok=True)
    others = "\n".join(f"- file: book/{page}" for page in ("appendix/glossary", "bibliography"))
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: book/{name}\nchapters:\n{others}\n")
    command = [
        BIN / "jupyter-book",
        "build",
        ".",
        "--toc",
        folder / "_toc.yml",
        "--path-output",
        folder,
        "-n",
        "-q",
        "--all",
    ]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        return [result.stdout[-1000:] + result.stderr[-2000:]]
    warnings = [
        line
        for line in result.stderr.splitlines()
        if re.search(rf"\b{name}\.ipynb\b.*(WARNING|ERROR)", line)
    ]
    known = known_elsewhere() | headings_elsewhere()

    def elsewhere(line: str) -> bool:
        targets = [
            target
            for match in QUOTED.findall(re.sub(r"\x1b\[[\d;]*m", "", line))
            for target in match
            if target
        ]
        return any(target.split("#")[-1].rsplit("/", 1)[-1] in known for target in targets)

    return [line for line in warnings if not elsewhere(line)]


def main(name: str) -> None:
    """All of it, the quick things first."""
    text = found(name)
    notebook = f"book/{name}.ipynb"
    run(sys.executable, "book/tools/execute.py", notebook)
    run(BIN / "ruff", "check", "-q", notebook)
    run(BIN / "ruff", "format", "-q", "--check", notebook)
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    own = sorted((ROOT / "tests" / "book").glob(f"test_chapter_{name[:2]}.py"))
    quick = ("notebooks", "equation_index", "appendices")
    run(
        *pytest,
        *(f"tests/book/test_{part}.py" for part in quick),
        "-k",
        f"({name} and {FAST}) or test_equation_index or (test_appendices and not quoted)",
    )
    run(
        *pytest,
        *own,
        "tests/book/test_notebooks.py",
        "-k",
        f"test_chapter_{name[:2]} or ({name} and executes)",
    )
    warnings = build_page(name)
    if warnings:
        raise SystemExit(
            "\n".join([f"the page of {text.relative_to(ROOT)} builds with warnings:", *warnings])
        )
    print(f"{name} is in order; its page: _build/check/_build/html/book/{name}.html")


if __name__ == "__main__":
    try:
        (wanted,) = sys.argv[1:] or [""]
        main(wanted)
    except ValueError as error:
        sys.exit(f"make check: {error}")
