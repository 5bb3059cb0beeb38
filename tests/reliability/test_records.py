"""What the long tests recorded, and that the book shows it."""

import json

import pytest
from book_tools import tool
from conftest import ROOT
from soak import IMAGES, POINTS, may_grow

appendices = tool("appendices")
RECORDS = ROOT / "data" / "reliability"


def recorded(name):
    path = RECORDS / f"{name}.json"
    if not path.exists():
        pytest.skip(f"`make {name}` has not been recorded yet")
    return json.loads(path.read_text())


@pytest.fixture(params=["chaos", "soak"])
def table(request):
    record = recorded(request.param)
    return request.param, getattr(appendices, f"{request.param}_table")(ROOT / "book"), record


def test_enough_was_tried_and_nothing_lost():
    record = recorded("chaos")
    assert record["kills"] >= 50
    assert record["kills_in_a_save"] >= 10
    assert record["kills_of_one_of_two_processes"] >= 10
    assert record["resumes"] == record["kills"]
    assert record["faults"] >= 30
    assert record["bad_inputs"] >= 50
    assert record["lost"] == []


def test_a_long_run_is_flat():
    points, pictures = recorded("soak")["runs"]
    assert points["iterations"] == POINTS["iterations"] == 200_000
    assert pictures["rows_of_samples"] == pictures["checkpoints"] >= 100
    for run, sizes in ((points, POINTS), (pictures, IMAGES)):
        assert run["checkpoints"] >= 100
        assert run["rows_of_the_history"] == run["iterations"] / sizes["log_every"] >= 20
        assert run["bytes_per_iteration"] < may_grow(sizes["log_every"]) < 100
        assert run["file_handles"][0] == run["file_handles"][1]
        assert not run["diverged"]


def test_the_book_shows_the_records(table):
    name, text, record = table
    assert f"{{{name}}}" in (ROOT / "book" / "appendix" / "reliability.md").read_text()
    assert f"On {record['machine']}, {record['date']}, with python" in text
    assert text.count("\n* -") == (9 if name == "chaos" else 3)
