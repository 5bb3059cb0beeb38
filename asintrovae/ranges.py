"""Checks that images are floats in [0, 1]; another range would give numbers that look right."""

import torch
from torch import Tensor

OUTSIDE = 0.2
"""Mean distance of all values from [0, 1] that images of a decoder may have; it has no bounds."""

WAYS_OUT = "divide 0..255 by 255, and map -1..1 by (x + 1) / 2"


def check_other_range(name: str, images: Tensor, generated: bool = False) -> None:
    """Raise ValueError for images that are not floats in [0, 1]; values that are not finite pass.

    Args:
        name: of the argument.
        images: of any shape.
        generated: from a decoder, or with noise, so that values may leave [0, 1] by OUTSIDE on
            average.

    Raises:
        ValueError: in one line with the ways out.
    """
    if not images.is_floating_point():
        raise ValueError(f"{name} holds {images.dtype}, not floats in [0, 1]; {WAYS_OUT}")
    finite = images.detach().nan_to_num(0, 0, 0)
    low, high = (float(value) for value in finite.aminmax()) if finite.numel() else (0.0, 1.0)
    if low >= 0 and high <= 1:
        return
    if not generated or float((finite - finite.clamp(0, 1)).abs().mean()) > OUTSIDE:
        ways_out = WAYS_OUT + ", and clamp what a decoder makes" * generated
        raise ValueError(f"{name} runs from {low:.4g} to {high:.4g}, not from 0 to 1; {ways_out}")


def clamped(images: Tensor) -> Tensor:
    """Return images with their finite values clamped to [0, 1]."""
    return torch.where(images.isfinite(), images.clamp(0, 1), images)
