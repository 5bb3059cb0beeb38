"""Image data sets, held on the device as bytes and served as floats in [0, 1]."""

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asintrovae.data.files import embedded
from asintrovae.randomness import generator_for

SHAPES: dict[str, tuple[int, ...]] = {"mnist-subset": (1, 28, 28), "mnist": (1, 28, 28)}
MNIST_FILES = {True: "train-images-idx3-ubyte.gz", False: "t10k-images-idx3-ubyte.gz"}


def read_idx(path: Path) -> Tensor:
    """Bytes of a gzip IDX file (the format of MNIST) as a uint8 tensor of the shape it declares; ValueError if it is none."""
    with gzip.open(path) as file:
        content = file.read()
    zero, kind, dims = content[:2], content[2], content[3]
    shape = np.frombuffer(content, ">u4", count=dims, offset=4).tolist()
    if zero != b"\0\0" or kind != 8 or len(content) != 4 + 4 * dims + int(np.prod(shape)):
        raise ValueError(f"{path} is not a whole IDX file of bytes; delete it and fetch it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dims).reshape(shape)


def mnist_folder(data_dir: str | None, download: bool) -> Path:
    """Folder with the four original files of MNIST: data_dir, $ASINTROVAE_DATA or ./data, in torchvision's layout.

    download: let torchvision fetch them into the first of these places if they are in none.
    Raises FileNotFoundError with the places looked at and both ways out.
    """
    roots = [data_dir] if data_dir else [os.environ.get("ASINTROVAE_DATA"), "data"]
    folders = [Path(root) / "MNIST" / "raw" for root in roots if root]
    for folder in folders:
        if all((folder / name).exists() for name in MNIST_FILES.values()):
            return folder
    if download:
        from asintrovae._torchvision import torchvision

        torchvision.datasets.MNIST(str(folders[0].parent.parent), download=True)
        return folders[0]
    raise FileNotFoundError(
        f"dataset='mnist' not found in {' or '.join(map(str, folders))}; set download=True to fetch it there, "
        "data_dir to where it is, or dataset='mnist-subset' for the embedded 6,000 digits"
    )


def load_images(name: str, train: bool, data_dir: str | None = None, download: bool = False) -> Tensor:
    """Images (N, C, H, W) uint8 of the data set's training or test split. Names: mnist-subset, mnist.

    Raises ValueError for an unknown name, FileNotFoundError where the files are missing.
    """
    if name == "mnist-subset":
        folder = embedded("mnist-subset")
    elif name == "mnist":
        folder = mnist_folder(data_dir, download)
    else:
        raise ValueError(f"dataset={name!r} is not one of mnist-subset, mnist")
    return read_idx(folder / MNIST_FILES[train]).unsqueeze(1)


class ImageData:
    """Shuffled epochs over images on the device; the batch of iteration i depends on (seed, i) alone.

    train, test: (N, C, H, W) uint8. batch_size: B, at most N; an incomplete last batch of an epoch is left out.
    """

    def __init__(self, train: Tensor, test: Tensor, batch_size: int, seed: int, device: torch.device) -> None:
        if batch_size > len(train):
            raise ValueError(f"batch_size={batch_size} exceeds the {len(train)} training images")
        self.train, self.test = train.to(device), test.to(device)
        self.batch_size, self.seed = batch_size, seed
        self._epoch, self._order = -1, torch.empty(0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        return tuple(self.train.shape[1:])

    def batch(self, index: int) -> Tensor:
        """Batch number `index` over all epochs, (B, C, H, W) in [0, 1]."""
        epoch, position = divmod(index, len(self.train) // self.batch_size)
        if epoch != self._epoch:
            order = torch.randperm(len(self.train), generator=generator_for(self.seed, "data", epoch))
            self._epoch, self._order = epoch, order.to(self.train.device)
        chosen = self._order[position * self.batch_size : (position + 1) * self.batch_size]
        return to_float(self.train[chosen])

    def evaluation(self, count: int) -> Tensor:
        """The first `count` test images, (count, C, H, W) in [0, 1], or all of them if there are fewer."""
        return to_float(self.test[:count])


def to_float(images: Tensor) -> Tensor:
    """Bytes 0..255 to floats in [0, 1]."""
    return images.float() / 255
