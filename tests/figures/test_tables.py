"""Tables: what a page and a terminal show, what is marked, and what is refused."""

import doctest
import re
from xml.etree import ElementTree

import numpy
import pytest
import torch

from asintrovae.figures import tables
from asintrovae.figures.tables import Table

ROWS = [
    {"model": "VAE", "FID": (31.42, -9.0, 55), "KL": 12.3456, "$n$": 32},
    {"model": "a < b & c", "FID": (25.25, 21, 30), "KL": None, "$n$": 8},
]


def shown(table):
    """Text of every cell of the HTML, row by row, and the elements."""
    tree = ElementTree.fromstring(table._repr_html_())
    rows = [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]
    return rows, tree


def cell(value, **options):
    """A number as a page shows it."""
    return shown(Table([{"row": "a", "b": value}], **options))[0][1][1]


def test_text_is_aligned_and_marked():
    table = Table(ROWS, best={"FID": "min", "$n$": "max"}, digits={"FID": 1}, caption="Scores")
    assert repr(table).splitlines() == [
        "Scores",
        "model                       FID    KL  $n$",
        "---------  --------------------  ----  ---",
        "VAE        31.4  (-9.0 to 55.0)  12.3  32*",
        "a < b & c  25.2* (21.0 to 30.0)     —   8",
    ]


def test_html_says_the_same_and_escapes_text():
    table = Table(ROWS, best={"FID": "min", "$n$": "max"}, digits={"FID": 1}, caption="Scores")
    rows, tree = shown(table)
    assert rows == [
        ["model", "FID", "KL", r"\(n\)"],
        ["VAE", "31.4 (−9.0 to 55.0)", "12.3", "32"],
        ["a < b & c", "25.2 (21.0 to 30.0)", "—", "8"],
    ]
    assert tree.get("class").split()[0] == "asintrovae-table"
    assert [mark.text for mark in tree.iter("strong")] == ["32", "25.2"]
    assert [small.text for small in tree.iter("small")] == ["(−9.0 to 55.0)", "(21.0 to 30.0)"]
    assert tree.find("caption").text == "Scores"
    assert [th.get("scope") for th in tree.iter("th")] == ["col"] * 4 + ["row"] * 2
    sides = [[c.get("style").split()[-1] for c in row] for row in tree.iter("tr")]
    assert sides == [["left", "right", "right", "right"]] * 3
    assert table._repr_html_() == Table(ROWS, **_options(table))._repr_html_()


def _options(table):
    return {name: getattr(table, name) for name in ("best", "digits", "caption")}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (9.9999, "10.0"),
        (1234.5678, "1235"),
        (-0.5, "−0.500"),
        (0.0, "0.00"),
        (2e-7, "2.00e−07"),
        (1234567, "1234567"),
        (float("nan"), "nan"),
        (float("-inf"), "−inf"),
        (numpy.float32(2.5), "2.50"),
        (numpy.int64(7), "7"),
        (torch.tensor(2.5), "2.50"),
        ("good", "good"),
        (None, "—"),
    ],
)
def test_numbers_have_three_significant_digits_and_integers_all(value, text):
    assert cell(value) == text


def test_decimals_of_a_column():
    assert cell(2, digits={"b": 2}) == "2.00"
    assert cell(-0.001, digits={"b": 1}) == "0.0"
    assert cell((3.14, -9, 15), digits={"b": 0}) == "3 (−9 to 15)"


def test_all_that_look_best_are_marked_and_what_is_no_number_is_not():
    values = [1.001, 1.0, None, "failed", float("nan"), 2]
    table = Table([{"a": i, "b": value} for i, value in enumerate(values)], best={"b": "min"})
    assert [mark.text for mark in shown(table)[1].iter("strong")] == ["1.00", "1.00"]
    none = Table([{"a": "x", "b": None}], best={"b": "max"})
    assert "strong" not in none._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": []}, "rows is empty"),
        ({"rows": [{"a": 1}, {"b": 1}]}, r"rows\[1\] has the keys \['b'\]"),
        ({"rows": ROWS, "best": {"fid": "min"}}, "best names 'fid'"),
        ({"rows": ROWS, "digits": {"fid": 1}}, "digits names 'fid'"),
        ({"rows": ROWS, "best": {"FID": "low"}}, r"best\['FID'\]='low' is not one of"),
        ({"rows": ROWS, "digits": {"FID": -1}}, r"digits\['FID'\]=-1 is not a whole number"),
        ({"rows": [{"a": 1, "b": (1, 2)}]}, r"the cell \(1, 2\) of column 'b' is not text"),
        ({"rows": [{"a": 1, "b": [1]}]}, r"the cell \[1\] of column 'b'"),
    ],
)
def test_bad_input_is_named_before_anything_is_shown(arguments, message):
    with pytest.raises(ValueError, match=message):
        Table(**arguments)


def test_the_example_of_the_docstring():
    assert doctest.testmod(tables, raise_on_error=True).attempted > 0


def test_columns_of_words_begin_at_the_left_and_numbers_end_at_the_right():
    rows = [
        {"claim": "A", "verdict": "no difference", "modes": "8 of 8", "KL": 1.0},
        {"claim": "B", "verdict": "holds", "modes": None, "KL": None},
    ]
    table = Table(rows)
    assert repr(table).splitlines()[2:] == [
        "A      no difference  8 of 8  1.00",
        "B      holds               —     —",
    ]
    heads = re.findall(r'style="text-align: (\w+)">(\w+)</th>', table._repr_html_())
    assert heads[:4] == [
        ("left", "claim"), ("left", "verdict"), ("right", "modes"), ("right", "KL"),
    ]  # fmt: skip
