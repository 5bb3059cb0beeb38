"""Schematics: every word is legible on a telephone, stands free of the others, and is in place."""

import io
import itertools

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import FancyArrowPatch

from asintrovae.figures.schematics import DRAWINGS, schematic
from asintrovae.figures.style import BLUE, GREEN, ORANGE, WINE, use_style

PHONE = 360
"""Pixels of a figure's width in a window of 390."""


@pytest.fixture(params=DRAWINGS)
def drawn(request):
    """A name, and its figure in the style of the book."""
    with plt.rc_context():
        use_style()
        figure = schematic(request.param)
        figure.canvas.draw()
        yield request.param, figure
        plt.close(figure)


def words(figure):
    """Text -> where it stands, in pixels."""
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    return [(text, text.get_window_extent()) for text in texts]


def test_words_are_legible_on_a_telephone(drawn):
    _, figure = drawn
    assert figure.get_figwidth() <= 6.5
    scale = PHONE / (72 * figure.get_figwidth())
    assert min(text.get_size() * scale for text, _ in words(figure)) >= 8


def test_no_two_words_overlap_and_none_leaves_the_figure(drawn):
    _, figure = drawn
    page = figure.bbox
    for text, box in words(figure):
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, text.get_text()
    for (one, first), (other, second) in itertools.combinations(words(figure), 2):
        assert not first.overlaps(second), (one.get_text(), other.get_text())


def test_the_parts_of_a_model_are_named(drawn):
    name, figure = drawn
    texts = [text.get_text() for text, _ in words(figure)]
    expected = {
        "vae": ["Encoder", "Decoder", "R: reconstruction error", "KL", "$x$", "$x_r$", "$x_g$"],
        "intro-encoder": ["Encoder (learns)", "Decoder (frozen)", "stop", "gradient", "KL($x$)"],
        "intro-decoder": ["Encoder (frozen)", "Decoder (learns)", "gradient", "KL($x_g$)"],
        "as_intro-encoder": ["Encoder (learns)", "Decoder (frozen)", "stop", "D", "$q_r$", "$q_g$"],
        "as_intro-decoder": ["Encoder (frozen)", "Decoder (learns)", "D", "$q_r$", "$q_g$"],
    }
    assert set(expected[name]) <= set(texts)
    raised = {"intro-encoder": 2, "as_intro-encoder": 3}.get(name, 0)
    assert texts.count("↑ raise") == raised
    assert texts.count("stop") == (2 if raised else 0)


def test_gradients_reach_only_what_learns():
    """In the encoder phase that of R alone goes above the encoder, through the decoder to z."""
    counts = {"vae": 0, "intro-encoder": 4, "intro-decoder": 5}
    counts |= {"as_intro-encoder": 5, "as_intro-decoder": 6}
    for name, count in counts.items():
        figure = schematic(name)
        heads = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
        assert sum(_hex(patch) == WINE for patch in heads) == count, name
        assert {_hex(patch) for patch in heads} <= {BLUE, ORANGE, WINE, GREEN}
        plt.close(figure)


def _hex(patch):
    return "#{:02X}{:02X}{:02X}".format(*(round(255 * part) for part in patch.get_facecolor()[:3]))


def test_a_schematic_is_the_same_each_time():
    pictures = []
    for _ in range(2):
        file, figure = io.BytesIO(), schematic("as_intro-encoder")
        figure.savefig(file, format="png")
        plt.close(figure)
        pictures.append(file.getvalue())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("intro_encoder", "'intro-encoder'"),
        ("asintro", "'as_intro-encoder'"),
        (3, "'vae'"),
        ("", "'vae'"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"name={name!r} is no schematic; did you mean .*{near}"):
        schematic(name)
