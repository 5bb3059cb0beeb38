"""Data sets: 2-D densities (toy) and images."""

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
    """Shape of one example of the run's data set: (2,) for points, (C, H, W) for images."""
    return (2,) if config.dataset in DENSITIES else image_shape(config)


class Data(Protocol):
    """What the loop asks of a data set."""

    def batch(self, index: int) -> Tensor:
        """Batch number `index`, the same whenever it is asked for."""
