"""Figures of the book and of the training notebooks, in one style: colour-blind safe, white behind, legible in dark mode."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from IPython import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image
from torch import Tensor

from asintrovae.files import write_atomically
from asintrovae.ranges import check_other_range

BLUE, ORANGE, GREEN, PINK, WINE, INDIGO = COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#882255",
    "#332288",
)
"""Okabe & Ito 2008, and two of Tol 2021 for the two of theirs that are too light for a line on white. BLUE is real or
reconstructed, ORANGE generated, throughout."""


STYLE: dict[str, Any] = {
    "figure.figsize": (7.2, 2.8),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "axes.grid": False,
    "legend.frameon": False,
    "font.size": 9,
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Set the book's style for all figures that follow."""
    plt.rcParams.update(STYLE)  # type: ignore[arg-type]


def points_figure(real: Tensor, generated: Tensor, extent: tuple[float, float]) -> Figure:
    """Real and generated points, (N, 2) each, side by side on the same square."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), sharex=True, sharey=True)
    panels = (("real", real, BLUE), ("generated", generated, ORANGE))
    for ax, (title, points, color) in zip(axes, panels, strict=True):
        ax.scatter(points[:, 0].cpu(), points[:, 1].cpu(), s=1, color=color, rasterized=True)
        ax.set(title=title, xlim=extent, ylim=extent, aspect="equal", xlabel="$x_1$")
    axes[0].set_ylabel("$x_2$")
    return figure


def images_figure(rows: Mapping[str, Tensor]) -> Figure:
    """Return a figure with a row of images for each name.

    rows: name -> images (N, C, H, W) in [0, 1]; values outside are clamped. Raises ValueError,
    with the name, for images that are evidently in another range.
    """
    from asintrovae.data._torchvision import (
        torchvision,
    )  # here, so that only those who draw images wait for it

    figure, axes = plt.subplots(len(rows), 1, figsize=(7.2, 0.62 * len(rows) + 0.2), squeeze=False)
    for ax, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        check_other_range(f"rows[{name!r}]", images, generated=True)
        grid = torchvision.utils.make_grid(
            images.cpu().clamp(0, 1), nrow=len(images), padding=1, pad_value=1.0
        )
        ax.imshow(grid.permute(1, 2, 0))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def history_figure(
    history: Sequence[Mapping[str, float]], panels: Mapping[str, Sequence[str]]
) -> Figure:
    """Curves of a run. panels: title -> names of terms as in the history; a term that it lacks is left out, an empty panel too.

    The axis is logarithmic where all values of a panel are above 0.
    """
    known = {name for row in history for name in row}
    drawn = {title: [name for name in names if name in known] for title, names in panels.items()}
    drawn = {title: names for title, names in drawn.items() if names} or drawn
    figure, axes = plt.subplots(1, len(drawn), figsize=(7.2, 2.5), squeeze=False)
    for ax, (title, names) in zip(axes[0], drawn.items(), strict=True):
        curves = {
            name: [(row["iteration"], row[name]) for row in history if name in row]
            for name in names
        }
        for name, curve in curves.items():
            ax.plot(*zip(*curve, strict=True), label=name, lw=1)
        positive = all(value > 0 for curve in curves.values() for _, value in curve)
        ax.set(title=title, xlabel="iteration", yscale="log" if positive else "linear")
        if names:
            ax.legend(fontsize="small")
    return figure


def draw_posteriors(
    ax: Axes, mu: Tensor, var: Tensor, color: str, label: str | None = None
) -> None:
    """Posteriors over two latent axes, (N, 2) means and variances, as ellipses of one standard deviation."""
    for index, (center, spread) in enumerate(zip(mu.tolist(), var.sqrt().tolist(), strict=True)):
        ellipse = Ellipse(
            center, 2 * spread[0], 2 * spread[1], facecolor=color, edgecolor=color, alpha=0.35
        )
        ellipse.set_label(label if index == 0 else None)
        ax.add_patch(ellipse)
    ax.scatter(mu[:, 0], mu[:, 1], s=4, color=color)
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")


def save_figure(figure: Figure, run_dir: str | Path, name: str) -> None:
    """Write the figure to run_dir/name, a PNG with 256 colours of its own: a third of the bytes where it shows photographs."""
    write_atomically(Path(run_dir) / name, _few_colors(figure))


def compact(figure: Figure) -> display.Image:
    """For a cell's output instead of the figure, which is closed: a third of the bytes where it shows thousands of points."""
    plt.close(figure)
    return display.Image(_few_colors(figure))  # type: ignore[no-untyped-call]


def _few_colors(figure: Figure) -> bytes:
    """The figure as a PNG with 256 colours of its own."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole)
    Image.open(whole).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()
