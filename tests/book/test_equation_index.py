"""Every equation that the package computes stands in four places: a labelled display in a chapter,
a cell there that compares it with the package, a test in test_equations.py, and a row of
the notation page. None may be missing."""

import re

import jupytext
import test_equations
from conftest import ROOT
from test_public_api import resolve

NOTATION = (ROOT / "book" / "notation.md").read_text()
SRC = sorted((ROOT / "book" / "src").rglob("*.md"))


def displayed():
    """Labels of the displayed equations, in order of appearance."""
    return [
        label for path in SRC for label in re.findall(r"\$\$ \((eq-[\w-]+)\)", path.read_text())
    ]


def witnessed():
    """label -> name of the chapter whose cell carries it as a tag; such a cell compares the formula
    with the package."""
    found = {}
    for path in SRC:
        for cell in jupytext.read(path).cells:
            labels = [tag for tag in cell.metadata.get("tags", []) if tag.startswith("eq-")]
            compares = "witness" in cell.source or "assert_close(" in cell.source
            assert not labels or compares, f"{path.name}: a cell tagged {labels} compares nothing"
            found |= dict.fromkeys(labels, path.stem)
    return found


def covered():
    """label -> names of the tests in test_equations.py that are marked with it."""
    found = {}
    for name, test in vars(test_equations).items():
        for mark in getattr(test, "pytestmark", []) if name.startswith("test_") else []:
            for label in mark.args if mark.name == "equation" else []:
                found.setdefault(label, set()).add(name)
    return found


def computed():
    """label -> (names in the package, names of tests), from the table of the notation page."""
    table = NOTATION[NOTATION.index("## Equations the package computes") :]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| {eq}")]
    names = [[set(re.findall(r"`([^`]+)`", row[column])) for column in (3, 4)] for row in rows]
    labels = [re.search(r"{eq}`(eq-[\w-]+)`", row[1])[1] for row in rows]
    assert len(labels) == len(set(labels))
    return dict(zip(labels, names, strict=True))


def not_computed():
    """Labels that the notation page lists as definitions and steps."""
    return re.findall(r"{eq}`(eq-[\w-]+)`", NOTATION[NOTATION.index("## The other equations") :])


def test_labels_are_unique():
    assert len(displayed()) == len(set(displayed()))


def test_the_four_places_hold_the_same_equations():
    index = computed()
    assert len(index) >= 20
    assert index.keys() == witnessed().keys(), (
        "witness cells (tags) and the table of notation.md differ"
    )
    assert index.keys() == covered().keys(), (
        "marks in test_equations.py and the table of notation.md differ"
    )
    assert set(displayed()) == index.keys() | set(not_computed()), (
        "a label is missing in notation.md, or has no equation"
    )
    assert not index.keys() & set(not_computed())


def test_the_table_names_what_exists():
    marks = covered()
    for label, (names, tests) in computed().items():
        assert names, label
        for name in names:
            resolve(f"asintrovae.{name}")
        assert tests == marks[label], label


def test_witness_and_equation_are_in_the_same_chapter():
    for label, chapter in witnessed().items():
        assert f"$$ ({label})" in (ROOT / "book" / "src" / f"{chapter}.md").read_text(), label
