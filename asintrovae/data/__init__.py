"""Data sets: two-dimensional densities and images."""

from typing import Protocol

from torch import Tensor

from asintrovae.config import RunConfig
from asintrovae.data.images import ImageData, image_shape, load_images
from asintrovae.data.toy import DENSITIES, ToyData, toy_density

__all__ = [
    "DENSITIES",
    "Data",
    "ImageData",
    "ToyData",
    "example_shape",
    "load_images",
    "toy_density",
]


def example_shape(config: RunConfig) -> tuple[int, ...]:
    """Return the shape of one example of the run, (2,) for points, (C, H, W) for images."""
    return (2,) if config.dataset in DENSITIES else image_shape(config)


class Data(Protocol):
    """Data set as the loop uses it."""

    def batch(self, index: int) -> Tensor:
        """Return batch number `index`, the same whenever it is asked for."""
