"""Figures of the book and of the training notebooks; `figures.style` holds their colours."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from IPython import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image
from torch import Tensor

from asintrovae.figures.style import BLUE, ORANGE
from asintrovae.files import write_atomically


def points_figure(real: Tensor, generated: Tensor, extent: tuple[float, float]) -> Figure:
    """Return a figure of real and generated points, side by side on the same square.

    Args:
        real: points (N, 2).
        generated: points (M, 2).
        extent: lowest and highest value of both axes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), sharex=True, sharey=True)
    panels = (("real", real, BLUE), ("generated", generated, ORANGE))
    for ax, (title, points, color) in zip(axes, panels, strict=True):
        ax.scatter(points[:, 0].cpu(), points[:, 1].cpu(), s=1, color=color, rasterized=True)
        ax.set(title=title, xlim=extent, ylim=extent, aspect="equal", xlabel="$x_1$")
    axes[0].set_ylabel("$x_2$")
    return figure


def images_figure(rows: Mapping[str, Tensor]) -> Figure:
    """Return a figure with a row of images for each name.

    Args:
        rows: name -> images (N, C, H, W) in [0, 1]; values outside are clamped, so that what a
            failed model makes is shown, too.
    """
    # here, so that only those who draw images wait for it
    from asintrovae.data._torchvision import torchvision

    figure, axes = plt.subplots(len(rows), 1, figsize=(7.2, 0.62 * len(rows) + 0.2), squeeze=False)
    for ax, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
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
    """Return a figure of the curves of a run.

    The vertical axis is logarithmic where all values of a panel are above 0.

    Args:
        history: rows of "iteration" and the values of terms, by name.
        panels: title -> names of terms as in the history. A term that the history lacks is left
            out, and so is a panel of such terms, unless all are.
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
    """Draw posteriors over two latent axes as ellipses of one standard deviation.

    Args:
        ax: where.
        mu: means (N, 2).
        var: variances (N, 2).
        color: of ellipses and centres.
        label: of all together in the legend.
    """
    for index, (center, spread) in enumerate(zip(mu.tolist(), var.sqrt().tolist(), strict=True)):
        ellipse = Ellipse(
            center, 2 * spread[0], 2 * spread[1], facecolor=color, edgecolor=color, alpha=0.35
        )
        ellipse.set_label(label if index == 0 else None)
        ax.add_patch(ellipse)
    ax.scatter(mu[:, 0], mu[:, 1], s=4, color=color)
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")


def save_figure(figure: Figure, run_dir: str | Path, name: str) -> None:
    """Write a figure to run_dir/name, a PNG with 256 colours of its own.

    That is a third of the bytes where it shows photographs.
    """
    write_atomically(Path(run_dir) / name, _few_colors(figure))


def compact(figure: Figure) -> display.Image:
    """Return a picture for a cell's output instead of the figure, and close the figure.

    It is a third of the bytes where it shows thousands of points.
    """
    plt.close(figure)
    return display.Image(_few_colors(figure))  # type: ignore[no-untyped-call]


def _few_colors(figure: Figure) -> bytes:
    """Return the figure as a PNG with 256 colours of its own."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole)
    Image.open(whole).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()
