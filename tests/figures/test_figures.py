"""Figures: colours that are told apart by everyone, one style in all chapters, and few bytes."""

import ast
import base64
import io
import itertools
import json

import jupytext
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.colors import is_color_like, to_hex, to_rgb
from PIL import Image

from asintrovae.figures.plots import compact, save_figure
from asintrovae.figures.style import COLORS, use_style

CHAPTERS = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
SOURCES = sorted((ROOT / "book" / "src").rglob("*.md"))
WHITE, BLACK = (
    "#FFFFFF",
    "#121212",
)  # the two themes of the pages; in the dark one figures stay on a light card

# Machado, Oliveira & Fernandes 2009, "A physiologically-based model for simulation of color
# vision deficiency", severity 1,
# for linear RGB.
VISION = {
    "all": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""IEC 61966-2-1: linear sRGB to CIE XYZ, D65."""


def linear(color):
    share = np.array(to_rgb(color))
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(color, vision):
    """CIE 1976 L*a*b* of a colour as someone with this vision sees it."""
    seen = np.clip(VISION[vision] @ linear(color), 0, 1)
    t = XYZ @ seen / XYZ.sum(axis=1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * 841 / 108 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colors, vision):
    """Smallest ΔE*ab (CIE 1976) between two of the colours; about 2 is just noticeable side by
    side."""
    return min(
        np.linalg.norm(lab(a, vision) - lab(b, vision))
        for a, b in itertools.combinations(colors, 2)
    )


@pytest.mark.parametrize("vision", VISION)
def test_series_are_told_apart(vision):
    for background in (WHITE, BLACK):
        assert nearest([*COLORS, background], vision) > 15


def test_the_simulation_sees_what_dichromats_do_not():
    """Greys stay grey; red and green of equal lightness, and matplotlib's own colours, come
    together without green cones."""
    for vision in VISION:
        assert lab("grey", vision) == pytest.approx(lab("grey", "all"), abs=0.5)
    assert nearest(["#B85C38", "#6F8237"], "all") > 45
    assert nearest(["#B85C38", "#6F8237"], "deuteranopia") < 15
    assert nearest([f"C{k}" for k in range(6)], "deuteranopia") < 15


def test_series_contrast_with_the_card():
    """3 to 1, as WCAG 2 asks of graphics."""
    contrast = {color: 1.05 / (XYZ[1] @ linear(color) + 0.05) for color in COLORS}
    assert min(contrast.values()) > 3, contrast


def chromatic(source):
    """Colours written out in code, greys aside."""
    words = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    colors = {to_hex(word).upper() for word in words if len(word) > 2 and is_color_like(word)}
    return {color for color in colors if len(set(to_rgb(color))) > 1}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_chapters_draw_in_the_style_of_the_book(path):
    cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
    code = "\n".join(cell for cell in cells if not cell.lstrip().startswith("%"))
    code = code.replace("%pip", "#")
    assert "use_style()" in code
    assert chromatic(code) <= {
        *COLORS,
        "#BFE3D6",
    }  # the last, a light green, lies behind the text of a box
    assert not any(
        name in code for name in ("rcParams", "plt.style", '"jet"', '"rainbow"', '"hsv"')
    )
    assert chromatic('plot(x, color="red", label="red")') == {"#FF0000"}


def stored(path):
    """Kind and bytes of a notebook's outputs that are pictures, or pages and widgets that move."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind, content in output.get("data", {}).items():
                if kind == "image/png":
                    yield kind, base64.b64decode(content)
                elif kind in ("text/html", "image/svg+xml"):
                    yield kind, content.encode()
    for model in (
        notebook.metadata.get("widgets", {})
        .get("application/vnd.jupyter.widget-state+json", {})
        .get("state", {})
        .values()
    ):
        yield "widget", json.dumps(model).encode()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_figure_has_at_most_150_kilobytes(path):
    """An animation or a widget, which holds many pictures, at most 1 megabyte."""
    outputs = list(stored(path))
    assert any(kind == "image/png" for kind, _ in outputs)
    for kind, content in outputs:
        assert len(content) <= (150_000 if kind.startswith("image") else 1_000_000), kind


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_figures_are_drawn_on_white(path):
    """The card that a dark page puts around them is white, too."""
    for kind, content in stored(path):
        if kind == "image/png":
            picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
            assert (picture[[0, -1]][:, [0, -1]] == 255).all()


@pytest.fixture
def cloud():
    """A figure of many points, and the style as it was."""
    with plt.rc_context():
        use_style()
        figure, ax = plt.subplots()
        ax.plot(*torch.randn(2, 4000), ".", ms=1)
        yield figure
        plt.close(figure)


def test_compact_figures_look_the_same_for_fewer_bytes(cloud, tmp_path):
    whole = io.BytesIO()
    cloud.savefig(whole)
    shown = compact(cloud)
    assert cloud.number not in plt.get_fignums()  # else a notebook would show it twice
    assert len(shown.data) < 0.6 * len(whole.getvalue())
    before, after = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)
        for png in (whole.getvalue(), shown.data)
    )
    inside = (slice(8, -8), slice(8, -8))  # of the white border
    assert after[inside].shape == before.shape
    assert np.abs(after[inside] - before).mean() < 1
    after[inside] = 255
    assert (after == 255).all()
    save_figure(cloud, tmp_path / "new", "cloud.png")
    with Image.open(tmp_path / "new" / "cloud.png") as saved:
        kept = np.asarray(saved.convert("RGB"), dtype=float)
    assert kept.shape == before.shape
    assert np.abs(kept - before).mean() < 1
