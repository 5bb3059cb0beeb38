"""Data sets: 2-D densities (toy) and images."""

from asintrovae.data.images import SHAPES, ImageData, load_images
from asintrovae.data.toy import DENSITIES, ToyData, toy_density

__all__ = ["DENSITIES", "ImageData", "ToyData", "example_shape", "load_images", "toy_density"]


def example_shape(name: str) -> tuple[int, ...]:
    """Shape of one example of the data set: (2,) for points, (C, H, W) for images."""
    return (2,) if name in DENSITIES else SHAPES[name]
