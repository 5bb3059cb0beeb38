"""Plots: images are large enough, points and intervals stand where they are, errors say what."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Ellipse

from asintrovae.data.image_files import write_row
from asintrovae.figures.plots import (
    forest,
    image_grid,
    image_rows,
    points_panels,
    posterior_panels,
)
from asintrovae.figures.style import BLUE, MODEL_COLORS, ORANGE, use_style
from asintrovae.theory.gaussian import Gaussian


@pytest.fixture(autouse=True)
def _style():
    with plt.rc_context():
        use_style()
        yield
        plt.close("all")


def rendered(figure):
    """Pixels (height, width, 3) of a figure in [0, 1]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255


@pytest.mark.parametrize(("size", "times"), [(8, 8), (28, 3), (32, 2), (64, 1), (128, 1)])
def test_a_pixel_of_an_image_is_a_square_of_pixels(size, times):
    images = torch.rand(3, 1, size, size)
    seen = rendered(image_grid(images, columns=2))
    side = size * times
    assert seen.shape == (2 * side + 2, 2 * side + 2, 3)
    assert side >= 64
    for image, (top, left) in zip(images, ((0, 0), (0, side + 2), (side + 2, 0)), strict=True):
        shown = seen[top : top + side : times, left : left + side : times, 0]
        assert np.abs(shown - image[0].numpy()).max() < 0.01
        assert (np.diff(seen[top : top + side, left : left + side, 0])[:, ::times] == 0).all() or (
            times == 1
        )
    assert (seen[side + 2 :, side + 2 :] == 1).all()


def test_a_saved_row_is_shown_as_its_images(tmp_path):
    images = torch.randint(0, 256, (16, 3, 32, 32)) / 255
    write_row(tmp_path / "row.png", images)
    assert (rendered(image_grid(tmp_path / "row.png")) == rendered(image_grid(images))).all()
    assert (rendered(image_grid(str(tmp_path / "row.png"))) == rendered(image_grid(images))).all()


def test_what_a_failed_model_makes_is_clamped():
    images = torch.linspace(-3, 3, 64).reshape(1, 1, 8, 8)
    seen = rendered(image_grid(images))
    assert (seen == rendered(image_grid(images.clamp(0, 1)))).all()


def test_grids_stand_side_by_side_where_the_page_has_room():
    images = torch.rand(8, 1, 28, 28)
    titles = ["VAE", "S-IntroVAE"]

    def corners(columns):
        figure = image_rows(dict.fromkeys(titles, images), columns)
        assert [ax.get_title(loc="left") for ax in figure.axes] == titles
        assert figure.get_figwidth() <= 7.2
        return [ax.get_position() for ax in figure.axes]

    first, second = corners(4)
    assert first.y0 == pytest.approx(second.y0)
    assert first.x1 < second.x0
    first, second = corners(8)
    assert first.x0 == pytest.approx(second.x0)
    assert first.y0 > second.y1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"panels": {}}, "panels is empty"),
        ({"panels": {"a": torch.rand(8, 8)}}, r"the images of 'a' have the shape \(8, 8\)"),
        ({"panels": {"a": torch.rand(0, 1, 8, 8)}}, "N at least 1"),
        ({"panels": {"a": torch.rand(2, 2, 8, 8)}}, "C 1 or 3"),
        ({"panels": {"a": torch.rand(2, 1, 8, 8)}, "columns": 0}, "columns=0 is below 1"),
        ({"panels": {"a": torch.rand(2, 1, 8, 8)}, "pixels": 0}, "pixels=0 is below 1"),
    ],
)
def test_images_that_cannot_be_laid_out_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        image_rows(**arguments)


def test_points_of_all_panels_are_on_the_same_square():
    real, points = torch.randn(50, 2), {f"m{k}": torch.randn(20, 2) for k in range(5)}
    figure = points_panels(points, real, extent=(-3, 3), columns=3)
    assert [ax.get_title() for ax in figure.axes] == list(points)
    for ax, drawn in zip(figure.axes, points.values(), strict=True):
        behind, on_top = ax.collections
        assert torch.equal(torch.tensor(on_top.get_offsets()), real.double())
        assert torch.equal(torch.tensor(behind.get_offsets()), drawn.double())
        assert (to_hex(on_top.get_facecolor()[0]), to_hex(behind.get_facecolor()[0])) == (
            BLUE.lower(),
            ORANGE.lower(),
        )
        assert (ax.get_xlim(), ax.get_ylim()) == ((-3, 3), (-3, 3))


def test_points_have_the_colour_of_their_model_and_the_range_of_the_real_ones():
    real = torch.tensor([[0.0, 1.0], [2.0, 10.0]])
    figure = points_panels({"vae": torch.randn(9, 2)}, real, colors=MODEL_COLORS)
    (ax,) = figure.axes
    assert to_hex(ax.collections[0].get_facecolor()[0]) == to_hex(MODEL_COLORS["vae"])
    assert ax.get_xlim() == pytest.approx((-1, 11))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"panels": {}}, "panels is empty"),
        ({"panels": {"a": torch.rand(4, 3)}}, r"panels\['a'\] has shape \(4, 3\)"),
        ({"panels": {"a": torch.rand(4, 2)}, "colors": {"b": "black"}}, "no colour for 'a'"),
        ({"panels": {"a": torch.rand(4, 2)}, "columns": 0}, "columns=0 is below 1"),
    ],
)
def test_points_that_cannot_be_drawn_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        points_panels(**arguments)


def test_a_forest_has_a_row_for_each_estimate():
    rows = [("C1", 1.12, 0.8, 1.5), ("C2", 0.7, 0.5, 0.95)]
    figure = forest(rows, xlabel="ratio", log=True)
    (ax,) = figure.axes
    figure.canvas.draw()
    drawn = ax.lines
    (segments,) = (line.get_segments() for line in ax.collections[:1])
    assert segments[0][:, 0].tolist() == [1.0, 1.0]
    assert [list(line.get_xdata()) for line in drawn[::2]] == [[0.8, 1.5], [0.5, 0.95]]
    assert [list(line.get_xdata()) for line in drawn[1::2]] == [[1.12], [0.7]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["C1", "C2"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # from top to bottom
    assert [text.get_text() for text in ax.texts] == ["1.12 (0.80 to 1.50)", "0.70 (0.50 to 0.95)"]
    figure = forest([("C1", 3.1, -9, 15)], reference=0.0, xlabel="difference")
    assert figure.axes[0].texts[0].get_text() == "3.1 (−9.0 to 15.0)"


def test_long_labels_of_a_forest_stand_above_their_lines():
    long = "AS-IntroVAE, D of real images / S-IntroVAE"
    (ax,) = forest([(long, 1.12, 0.8, 1.5), ("C2", 0.7, 0.5, 0.95)], xlabel="ratio").axes
    assert {label.get_text() for label in ax.get_yticklabels()} == {""}
    texts = {text.get_text(): text.xy for text in ax.texts}
    assert texts[long] == (0, -0.48)
    assert texts["C2"] == (0, 0.52)
    assert texts["1.12 (0.80 to 1.50)"] == (1.02, 0)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "rows is empty"),
        ([("a", 1, 2, 3)], {}, "row 'a' has estimate 1 and interval 2 to 3"),
        ([("a", 1, float("nan"), 3)], {}, "row 'a'"),
        ([("a", 1, 0, 3)], {"log": True}, "row 'a' starts at 0"),
        ([("a", 1, 0.5, 3)], {"log": True, "reference": 0.0}, "the reference is 0.0"),
    ],
)
def test_a_row_that_a_forest_cannot_show_is_named(rows, options, message):
    with pytest.raises(ValueError, match=message):
        forest(rows, xlabel="x", **options)


def test_posteriors_are_ellipses_of_one_standard_deviation():
    mean = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-1.0, 0.5]])
    var = torch.tensor([[0.25, 1.0], [0.04, 0.04], [1.0, 0.25]])
    panels = {"VAE": Gaussian(mean, var.log()), "S-IntroVAE": Gaussian(mean, 0 * var)}
    figure = posterior_panels(panels, groups=torch.tensor([0, 1, 0]))
    first, second = (
        [patch for patch in ax.patches if isinstance(patch, Ellipse) and patch.get_fill()]
        for ax in figure.axes
    )
    places = {(*each.center, each.width, each.height) for each in first}
    expected = torch.cat([mean, 2 * var.sqrt()], dim=1).tolist()
    assert sorted(places) == pytest.approx(sorted(map(tuple, expected)))
    assert {each.width for each in second} == {2.0}
    assert len({each.get_facecolor() for each in first}) == 2  # a colour for each group
    prior = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert sorted(patch.width for patch in prior) == [2, 4]


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "panels is empty; give the posteriors of one title at least"),
        ({"a": Gaussian(*torch.zeros(2, 4, 3))}, r"panels\['a'\] has means \(4, 3\), not \(N, 2\)"),
    ],
)
def test_posteriors_outside_the_plane_are_named(panels, message):
    with pytest.raises(ValueError, match=message):
        posterior_panels(panels)
