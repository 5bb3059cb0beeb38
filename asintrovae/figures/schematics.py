"""Schematics of the models: what flows where, what learns, and where a gradient stops."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.text import Text

from asintrovae.figures.style import BLUE, GREEN, ORANGE, WINE

Point = tuple[float, float]

INK, GREY = "#222222", "#767676"
SIZE = 12.0
"""Points of all text: 10 pixels or more where a figure is 360 pixels wide."""
CAPITAL = 0.73 * SIZE / 72
"""Inches of a capital letter's height."""
IMAGE = 0.66
"""Inches of a side of an image."""
PASS = 0.28
"""Inches from the middle of a column to the gradient that runs up beside it."""
LOSS = 0.16
"""Half the height of the frame around a term of a loss, in inches."""
POSTERIOR = (0.46, 0.32)
"""Axes of a posterior, in inches."""

THREE = (
    *((0.28, 0.78), (0.42, 0.87), (0.6, 0.86), (0.7, 0.74), (0.62, 0.59), (0.46, 0.53)),
    *((0.64, 0.47), (0.73, 0.31), (0.64, 0.17), (0.45, 0.11), (0.26, 0.19)),
)
SEVEN = ((0.24, 0.78), (0.4, 0.83), (0.76, 0.82), (0.66, 0.6), (0.52, 0.36), (0.43, 0.12))
DIGITS = {"$x$": (THREE, 0.055), "$x_r$": (THREE, 0.08), "$x_g$": (SEVEN, 0.08)}
"""Points that the pen passes in the unit square, and its width, of the three kinds of image."""


def schematic(name: str) -> Figure:
    """Return a schematic of a model.

    Blue is real or reconstructed, orange generated. A dashed arrow is the gradient of a loss,
    and a bar at its end is a stop-gradient. That of R goes to the decoder that learns, or through
    the frozen one to z and so to the encoder. What learns has a green outline, what is frozen is
    hatched.

    Args:
        name: "vae"; "intro-encoder" or "intro-decoder", the two phases of IntroVAE and of
            Soft-IntroVAE; "as_intro-encoder" or "as_intro-decoder", those of AS-IntroVAE.

    Raises:
        ValueError: for another name; it gives the nearest ones.

    Example:
        >>> figure = schematic("vae")
    """
    if name not in DRAWINGS:
        near = difflib.get_close_matches(str(name)[:100], DRAWINGS, n=2, cutoff=0.5)
        known = " or ".join(repr(known) for known in near or DRAWINGS)
        raise ValueError(f"name={name!r} is no schematic; did you mean {known}?")
    return DRAWINGS[name]()


def _vae() -> Figure:
    """Return the schematic of the VAE: reconstruction in the upper row, generation in the lower."""
    figure, ax = _canvas(5.8, 2.72)
    upper, lower, bracket = 1.76, 0.62, 2.5
    middle, half = (upper + lower) / 2, IMAGE / 2
    x, encoder, plane, decoder, x_r = 0.43, 1.47, 2.9, 4.33, 5.37
    draw, wide = plane + 0.12, 0.86

    ax.add_patch(Circle((plane, middle), 0.8, facecolor="#EFEFEF", edgecolor=GREY, lw=1.2))
    _posterior(ax, (plane, upper), BLUE)
    _text(ax, (plane, middle + 0.95), r"$q(z\,|\,x)$", BLUE)
    _text(ax, (plane, middle - 0.95), "$p(z)$", GREY)
    for y, color in ((upper, BLUE), (lower, ORANGE)):
        ax.add_patch(Circle((draw, y), 0.045, color=color, zorder=4))
        _text(ax, (decoder - wide / 2 - 0.17, y + 0.13), "$z$", color)
        _arrow(ax, (draw, y), (decoder - wide / 2, y), color)
        _arrow(ax, (decoder + wide / 2, y), (x_r - half, y), color)

    _box(ax, (encoder, upper), (wide, 0.5), "Encoder")
    _box(ax, (decoder, middle), (wide, upper - lower + 0.5), "Decoder")
    _arrow(ax, (x + half, upper), (encoder - wide / 2, upper), BLUE)
    _arrow(ax, (encoder + wide / 2, upper), (plane - POSTERIOR[0] / 2, upper), BLUE)
    _image(ax, (x, upper), "$x$", BLUE)
    _image(ax, (x_r, upper), "$x_r$", BLUE)
    _image(ax, (x_r, lower), "$x_g$", ORANGE)
    for at, label, color in ((x, "$x$", BLUE), (x_r, "$x_r$", BLUE)):
        _text(ax, (at, upper - half - 0.15), label, color)
    _text(ax, (x_r, lower - half - 0.15), "$x_g$", ORANGE)

    top, low = upper + half, upper - POSTERIOR[1] / 2
    ax.plot([x, x, x_r, x_r], [top, bracket, bracket, top], color=INK, lw=1)
    _loss(ax, (plane, bracket), "R: reconstruction error", 2.0)
    ax.plot([plane, plane, plane - 0.8], [low, middle, middle], color=INK, lw=1)
    _loss(ax, (plane, middle), "KL", 0.38)
    return figure


def _phase(learner: str, distance: bool = False) -> Figure:
    """Return the schematic of a phase of an introspective VAE, from the latents down to the losses.

    Args:
        learner: "encoder" or "decoder".
        distance: with D between the posteriors of the fakes.
    """
    losses = 0.56
    encoder = losses + (1.54 if distance else 0.86)
    images, decoder, latents = encoder + 1.22, encoder + 2.2, encoder + 2.84
    figure, ax = _canvas(4.5, latents + 0.2)
    real, rec, gen = 0.64, 2.13, 3.62
    half, high = IMAGE / 2, 0.24
    learns = learner == "encoder"
    names = {real: "$x$", rec: "$x_r$", gen: "$x_g$"}
    colors = {real: BLUE, rec: BLUE, gen: ORANGE}
    passed = (real, rec, gen) if learns else (rec, gen)

    phase = f"{learner.capitalize()}\nphase"
    ax.text(0.12, latents + 0.1, phase, size=SIZE, weight="bold", color=INK, va="top")
    states = {True: "learns", False: "frozen"}
    wide = gen - rec + 0.94
    _box(ax, ((rec + gen) / 2, decoder), (wide, 2 * high), "Decoder", states[not learns])
    wide, aside = gen - real + 0.94, 0.0 if learns else -1.08
    _box(ax, ((real + gen) / 2, encoder), (wide, 2 * high), "Encoder", states[learns], aside)
    for at, label in names.items():
        _image(ax, (at, images), label, colors[at])
        _text(ax, (at - 0.2, images - half - 0.15), label, colors[at])
    between = (real + rec) / 2
    ax.plot([real + half, rec - half], [images, images], color=INK, lw=1)
    _loss(ax, (between, images), "R")
    _goal(ax, (between, images - 0.31), "lower")
    beside = rec - half - 0.09
    _gradient(ax, (beside, images), (beside, latents - 0.13 if learns else decoder - high))

    for at, label in ((rec, r"$z \sim q(z\,|\,x)$"), (gen, r"$z \sim p(z)$")):
        _text(ax, (at, latents), label, colors[at])
        _arrow(ax, (at, latents - 0.13), (at, decoder + high), colors[at])
        _arrow(ax, (at, decoder - high), (at, images + half), colors[at])
        beside = at + PASS
        if learns:
            _stop(ax, (beside, encoder + high), (beside, encoder + high + 0.3))
        else:
            _gradient(ax, (beside, images + half), (beside, decoder - high))
    for at in passed:
        _arrow(ax, (at, images - half), (at, encoder + high), colors[at])
        _arrow(ax, (at, encoder - high), (at, losses + LOSS), colors[at])
        reached = (
            encoder - high if learns else images - half
        )  # through the encoder, which is frozen
        _gradient(ax, (at + PASS, losses + LOSS), (at + PASS, reached))
        _loss(ax, (at, losses), f"KL({names[at]})", 0.76)
        _goal(ax, (at, losses - 0.33), "raise" if learns and at != real else "lower")
    beside, height = passed[0] + PASS + 0.08, (losses + LOSS + encoder - high) / 2
    if distance and not learns:  # D stands beside the column
        beside, height = (rec + gen) / 2 + 0.05, encoder + high + 0.17
    _text(ax, (beside, height), "gradient", WINE, ha="left")
    if distance:
        _distance(ax, (rec, gen), encoder - high, None if learns else decoder - high)
    return figure


def _distance(ax: Axes, columns: Point, encoder: float, decoder: float | None) -> None:
    """Draw D between the posteriors of the fakes.

    Args:
        ax: where.
        columns: of the fakes.
        encoder: height of the encoder's lower edge.
        decoder: that of the decoder's where the decoder learns, else None.
    """
    height, between = encoder - 0.5, sum(columns) / 2
    ax.plot(columns, [height, height], color=INK, lw=1)
    for at, label, color in zip(columns, ("$q_r$", "$q_g$"), (BLUE, ORANGE), strict=True):
        _posterior(ax, (at, height), color)
        _text(ax, (at, height), label, color)
    _gradient(ax, (between, height + LOSS), (between, encoder if decoder is None else decoder))
    _loss(ax, (between, height), "D")
    _goal(ax, (between, height - 0.33), "raise" if decoder is None else "lower")


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "vae": _vae,
    "intro-encoder": partial(_phase, "encoder"),
    "intro-decoder": partial(_phase, "decoder"),
    "as_intro-encoder": partial(_phase, "encoder", distance=True),
    "as_intro-decoder": partial(_phase, "decoder", distance=True),
}


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure, and axes over all of it whose unit is the inch."""
    figure = plt.figure(figsize=(width, height))
    figure.set_layout_engine("none")  # the style's would warn of axes that it cannot move
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return figure, ax


def _text(ax: Axes, at: Point, text: str, color: str = INK, **look: Any) -> Text:
    """Write text whose capitals have their middle at a point."""
    centred: dict[str, Any] = {"ha": "center", "va": "baseline", "zorder": 5}
    return ax.text(at[0], at[1] - CAPITAL / 2, text, size=SIZE, color=color, **(centred | look))


def _box(
    ax: Axes, at: Point, size: Point, text: str, state: str | None = None, aside: float = 0.0
) -> None:
    """Draw a network.

    Args:
        ax: where.
        at: its middle.
        size: width and height.
        text: its name.
        state: "learns" or "frozen".
        aside: from its middle to that of its name.
    """
    low = (at[0] - size[0] / 2, at[1] - size[1] / 2)
    look: dict[str, Any] = {"facecolor": "#F4F4F4", "edgecolor": INK, "lw": 1.2}
    if state == "learns":
        look = {"facecolor": _tint(GREEN), "edgecolor": GREEN, "lw": 2.2}
    elif state == "frozen":
        look = {"facecolor": "white", "edgecolor": "#B0B0B0", "lw": 1.2, "hatch": "///"}
    style = "round,pad=0,rounding_size=0.07"
    ax.add_patch(FancyBboxPatch(low, *size, boxstyle=style, zorder=1, **look))
    words = _text(ax, (at[0] + aside, at[1]), f"{text} ({state})" if state else text)
    if state == "frozen":
        words.set_bbox({"facecolor": "white", "edgecolor": "none", "boxstyle": "round,pad=0.1"})


def _image(ax: Axes, at: Point, kind: str, color: str) -> None:
    """Draw an image of a digit.

    Args:
        ax: where.
        at: its middle.
        kind: of `DIGITS`.
        color: of ink and frame.
    """
    strokes, width = DIGITS[kind]
    ends, steps = numpy.array(strokes), numpy.linspace(0, 1, 20)[:, None, None]
    pen = (ends[:-1] + steps * (ends[1:] - ends[:-1])).reshape(-1, 2)
    centers = (numpy.arange(16) + 0.5) / 16
    pixels = numpy.stack(numpy.meshgrid(centers, centers), axis=-1)[:, :, None]
    nearest = numpy.linalg.norm(pixels - pen, axis=-1).min(-1)
    ink = LinearSegmentedColormap.from_list("ink", ["white", color])
    left, bottom = at[0] - IMAGE / 2, at[1] - IMAGE / 2
    ax.imshow(
        numpy.exp(-((nearest / width) ** 2) / 2),
        cmap=ink,
        vmin=0,
        vmax=DIGITS[kind][1] / 0.055,  # a wide pen is pale
        origin="lower",
        extent=(left, left + IMAGE, bottom, bottom + IMAGE),
        aspect="auto",
        interpolation="nearest",
    )
    frame = Rectangle((left, bottom), IMAGE, IMAGE, fill=False, edgecolor=color, lw=1.2)
    ax.add_patch(frame)


def _posterior(ax: Axes, at: Point, color: str) -> None:
    """Draw the posterior of an image."""
    ax.add_patch(Ellipse(at, *POSTERIOR, facecolor=_tint(color), edgecolor=color, lw=1.2, zorder=4))


def _arrow(ax: Axes, start: Point, end: Point, color: str, **look: Any) -> None:
    """Draw an arrow of what flows forward."""
    whole: dict[str, Any] = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "zorder": 3}
    look = {"lw": 1.4, "mutation_scale": 11} | look
    ax.add_patch(FancyArrowPatch(start, end, color=color, **whole, **look))


def _gradient(ax: Axes, start: Point, end: Point) -> None:
    """Draw an upright arrow of a gradient."""
    neck = (end[0], end[1] - 0.12)
    _dashes(ax, start, neck)
    _arrow(ax, neck, end, WINE, lw=0, mutation_scale=17)


def _stop(ax: Axes, start: Point, end: Point) -> None:
    """Draw an upright gradient that is stopped at its end."""
    _dashes(ax, start, end)
    ax.plot([end[0] - 0.11, end[0] + 0.11], [end[1]] * 2, color=WINE, lw=3.5, zorder=3)
    _text(ax, (end[0] + 0.16, end[1]), "stop", WINE, ha="left")


def _dashes(ax: Axes, start: Point, end: Point) -> None:
    """Draw the dashed line of a gradient."""
    line: dict[str, Any] = {"color": WINE, "lw": 1.8, "ls": (0, (2, 1)), "zorder": 3}
    ax.plot(*zip(start, end, strict=True), **line)


def _loss(ax: Axes, at: Point, text: str, width: float = 0.32) -> None:
    """Draw a term of a loss in a frame of a width."""
    low, style = (at[0] - width / 2, at[1] - LOSS), "round,pad=0,rounding_size=0.05"
    frame = FancyBboxPatch(low, width, 2 * LOSS, boxstyle=style, facecolor="white", edgecolor=INK)
    frame.set(lw=1, zorder=4)
    ax.add_patch(frame)
    _text(ax, at, text)


def _goal(ax: Axes, at: Point, text: str) -> None:
    """Write whether what learns has to "lower" or "raise" a term."""
    arrow = {"lower": "↓", "raise": "↑"}[text]
    _text(ax, at, f"{arrow} {text}", GREEN, weight="bold")


def _tint(color: str) -> tuple[float, ...]:
    """Return a colour mixed with much white."""
    return tuple(0.8 + 0.2 * part for part in to_rgb(color))
