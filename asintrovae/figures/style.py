"""Colours and style of all figures: told apart by everyone, white behind, legible in dark mode."""

from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler

BLUE, ORANGE, GREEN, PINK, WINE, INDIGO = COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#882255",
    "#332288",
)
"""The palette: Okabe & Ito 2008, and in the place of the two of theirs that are too light for a
line on white two of Tol 2021. BLUE is real or reconstructed, ORANGE generated, throughout."""

MODEL_COLORS = {
    "vae": "black",
    "intro": PINK,
    "soft_intro": BLUE,
    "as_intro": ORANGE,
    "wgan_gp": GREEN,
}
"""Colour of each model where a figure compares models, by its name in RunConfig. INDIGO and WINE
are left for variants of a model."""

MODEL_NAMES = {
    "vae": "VAE",
    "intro": "IntroVAE",
    "soft_intro": "S-IntroVAE",
    "as_intro": "AS-IntroVAE",
    "wgan_gp": "WGAN-GP",
}
"""Name of each model on a page, by its name in RunConfig."""

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
"""matplotlib's rcParams of the book."""


def use_style() -> None:
    """Set the book's style for all figures that follow."""
    plt.rcParams.update(STYLE)  # type: ignore[arg-type]
