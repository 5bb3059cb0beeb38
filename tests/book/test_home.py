"""The home page: what it says of the project is what the project's files say."""

import re

import nbformat
import pytest
import yaml
from conftest import ROOT

from asintrovae.files import embedded
from asintrovae.sweeps.claims import claims

HOME = (ROOT / "book" / "src" / "index.md").read_text()


def test_the_reference_is_that_of_the_citation_file():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    fields = dict(re.findall(r"(?m)^  (\w+) += \{+(.*?)\}+,$", HOME))
    assert fields == {
        "author": cited["authors"][0]["name"],
        "title": cited["title"],
        "version": cited["version"],
        "year": str(cited["date-released"].year),
        "url": cited["repository-code"],
    }


@pytest.mark.parametrize(("name", "visible"), [("index", 0), ("found", 1)])
def test_hardly_any_code_is_shown(name, visible):
    """What was found shows one cell: how to look at a claim."""
    cells = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4).cells
    tags = [set(cell.metadata.get("tags", [])) for cell in cells if cell.cell_type == "code"]
    assert len(tags) >= 4
    assert sum(not tag & {"remove-input", "remove-cell"} for tag in tags) == visible


def test_every_claim_of_the_home_page_is_one():
    keys = re.findall(r'^    "([\w-]+)",$', HOME, flags=re.MULTILINE)
    found = {claim.key for claim in claims(embedded("runs"))}
    assert 8 <= len(keys) <= 12
    assert set(keys) <= found
