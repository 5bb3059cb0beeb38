"""The claims as a table and as a forest plot show what the claims hold."""

import math
import re

import matplotlib.pyplot as plt
import pytest

from asintrovae.evaluation.statistics import Effect
from asintrovae.figures.verdicts import claims_table, forest_figure
from asintrovae.sweeps.claims import FAILS, Claim


def claim(text, effect, chapter, **values):
    return Claim(text, text, "ratio", effect, 1.0, "below", ("x",) * 4, chapter, **values)


ONE = {"margin": (0.8, 1.25), "published": 0.1, "left_out": 2}
GIVEN = [
    claim("One", Effect(0.5, 0.25, 1.5), "12_toy", **ONE),
    claim("One & only", Effect(2.0, 1.5, 3.0), "13_image", verdict=FAILS),
    claim("Once's", Effect(0.9, math.nan, math.nan), "01_vae", published=0.97),
]


def test_claims_of_a_table_are_links_to_their_chapters():
    """The text of one claim begins like that of another."""
    html = claims_table(GIVEN)._repr_html_()
    links = re.findall(r'<a href="([^"]+)">(.*?)</a>', html)
    assert links == [
        ("12_toy.html", "One"),
        ("13_image.html", "One &amp; only"),
        ("01_vae.html", "Once's"),
    ]
    assert "undecided; the published 0.1 is excluded" in html
    assert "0.9, one run each" in html


def test_details_name_the_runs():
    text = repr(claims_table(GIVEN, details=True))
    assert "4 (2 left out)" in text
    assert text.count("ratio") == 3
    assert "published  " in text


def test_a_column_of_published_effects_is_shown_where_there_are_any():
    assert "published" not in repr(claims_table(GIVEN[1:2], details=True))


def test_a_forest_plot_has_each_interval_where_it_belongs():
    figure = forest_figure(GIVEN, "ratio")
    (ax,) = figure.axes
    drawn = {
        (round(line.get_ydata()[0]), tuple(line.get_xdata()))
        for line in ax.lines
        if line.get_color() not in ("black", "k", "0.88")
    }
    assert {(0, (0.25, 1.5)), (1, (1.5, 3.0)), (0, (0.5,)), (1, (2.0,)), (2, (0.9,))} <= drawn
    crosses = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "x"]
    assert crosses == pytest.approx([0.1, math.nan, 0.97], nan_ok=True)
    margins = [tuple(line.get_xdata()) for line in ax.lines if line.get_color() == "0.88"]
    assert margins[0] == (0.8, 1.25)
    assert [label.get_text() for label in ax.get_yticklabels()][1] == "One & only: does not hold"
    assert ax.get_xscale() == "log"
    plt.close(figure)
