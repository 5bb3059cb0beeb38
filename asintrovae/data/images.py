"""Image data sets, served as floats in [0, 1]: held on the device as bytes, or decoded as they are needed."""

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asintrovae.collectives import world
from asintrovae.config import SHAPES, ParameterError, RunConfig
from asintrovae.data.image_files import Fit, leave_signals_to_the_run, read, read_all
from asintrovae.data.sources import Split, find_images, fingerprint, left_out
from asintrovae.randomness import generator_for
from asintrovae.threads import processors

MEMORY_LIMIT = 2**30
"""Bytes of a data set, both splits, up to which it is decoded at the start and kept on the device."""


LEAST_SCORED = 4
"""Test images that a feature network needs: precision and recall look at three neighbours."""


LONGEST_GAP = 100
"""Unreadable images in a row from which on the data set is broken, not an image."""


class ImageData(ABC):
    """Shuffled epochs over images; the batch of iteration i depends on (seed, i) alone."""

    shape: tuple[int, ...]
    """Shape of one image, (C, H, W)."""
    fingerprint: str = ""
    """Of the files it was loaded from (`sources.fingerprint`); empty where it was given as it is."""

    @property
    @abstractmethod
    def skipped_images(self) -> int | None:
        """Images that could not be read and were left out or replaced: of a set in memory all, of a streamed one those met.

        Those of a folder that `left_out` names count too; a sub-folder that cannot be read is one.
        None where others met some too: a streamed run in several processes, or one that was resumed.
        """

    @abstractmethod
    def batch(self, index: int) -> Tensor:
        """Batch number `index` over all epochs, (B, C, H, W) in [0, 1] on the device; of several processes' runs its share."""

    @abstractmethod
    def evaluation(self, count: int) -> Tensor:
        """`count` test images, (count, C, H, W) in [0, 1] on the device, or fewer where there are no more.

        A larger count begins with the same images, and they are the same for every run.
        """


class Epochs:
    """Which images make up which batch: each epoch a permutation, its incomplete last batch left out.

    Of several processes each gets its share of the batch.
    count: N training images. batch_size: B, at most N, else ValueError. mirror: flip half of them, drawn anew each epoch.
    """

    def __init__(self, count: int, batch_size: int, seed: int, mirror: bool = False) -> None:
        if batch_size > count:
            raise ValueError(
                f"batch_size={batch_size} exceeds the {count} training images that can be read; make it smaller"
            )
        self.count, self.batch_size, self.seed, self.mirror = count, batch_size, seed, mirror
        self.world = world()  # noted here, since a process that only decodes belongs to no group
        self._epoch, self._order, self._flip = -1, torch.empty(0), torch.empty(0)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Batch number `index` over all epochs: the images' numbers (B,), and which are mirrored (B,)."""
        epoch, position = divmod(index, self.count // self.batch_size)
        if epoch != self._epoch:
            generator = generator_for(self.seed, "data", epoch)
            self._order = torch.randperm(self.count, generator=generator)
            self._flip = torch.rand(self.count, generator=generator) < 0.5 * self.mirror
            self._epoch = epoch
        rank, count = self.world
        size = self.batch_size // count
        start = position * self.batch_size + rank * size
        chosen = slice(start, start + size)
        return self._order[chosen], self._flip[chosen]


class MemoryImages(ImageData):
    """Images that live on the device, which nothing that happens to their files can change. train, test: (N, C, H, W) uint8."""

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        epochs: Epochs,
        device: torch.device,
        skipped_images: int = 0,
    ) -> None:
        self.train, self.test, self.epochs = train.to(device), test.to(device), epochs
        self.shape, self._skipped = tuple(train.shape[1:]), skipped_images

    @property
    def skipped_images(self) -> int:
        """As ImageData."""
        return self._skipped

    def batch(self, index: int) -> Tensor:
        """As ImageData."""
        numbers, flip = self.epochs.batch(index)
        return to_float(
            mirrored(self.train[numbers.to(self.train.device, non_blocking=True)], flip)
        )

    def evaluation(self, count: int) -> Tensor:
        """As ImageData."""
        return to_float(self.test[:count])


class DecodedBatches(Dataset[tuple[Tensor | None, list[str]]]):
    """What a worker computes: batch number `index` as bytes (B, 3, size, size), and a line for each image it had to replace.

    None in the place of the batch where LONGEST_GAP images in a row cannot be read.
    """

    def __init__(self, paths: Sequence[Path], size: int, epochs: Epochs, fit: Fit = "crop") -> None:
        self.paths, self.size, self.epochs, self.fit = paths, size, epochs, fit

    def __getitem__(self, index: int) -> tuple[Tensor | None, list[str]]:
        numbers, flip = self.epochs.batch(index)
        problems: list[str] = []
        images = []
        for number in numbers.tolist():
            if (image := self.readable(number, problems)) is None:
                return None, problems  # an exception of a worker would come with its traceback
            images.append(image)
        return mirrored(torch.stack(images), flip), problems

    def readable(self, number: int, problems: list[str]) -> Tensor | None:
        """Return image `number`, or the next that can be read, (3, size, size), and note the others.

        None where none of all images, or of LONGEST_GAP in a row, can be read.
        """
        for step in range(min(LONGEST_GAP, len(self.paths))):
            found = read(self.paths[(number + step) % len(self.paths)], self.size, self.fit)
            if isinstance(found, Tensor):
                return found
            problems.append(found)
        return None


NONE_SERVED = -2
"""In the place of a batch's number; no batch comes after it."""


class StreamedImages(ImageData):
    """Images decoded by worker processes ahead of their use; asking for batches out of order works, but starts them anew.

    train, test: one file per image. size: H and W. workers: of each process of the run; 0 decodes in this one, None is one
    per core, at most 8. processes: of the run. fit: as in `decode`.
    An unreadable training image is replaced by the next readable one, with a warning; strict: a ValueError instead.
    """

    def __init__(
        self,
        train: Sequence[Path],
        test: Sequence[Path],
        size: int,
        epochs: Epochs,
        device: torch.device,
        *,
        workers: int | None = None,
        strict: bool = False,
        processes: int = 1,
        fit: Fit = "crop",
    ) -> None:
        self.shape, self.device, self.strict = (3, size, size), device, strict
        self.batches, self.test_paths = DecodedBatches(train, size, epochs, fit), test
        self.workers = min(8, processors()) if workers is None else workers
        self._problems: set[str] = set()
        self._complete, self._served = (
            processes == 1,
            0,
        )  # whether every batch so far, of how many, was served here
        self._stream: Iterator[tuple[Tensor | None, list[str]]] = iter(())
        self._index, self._images = NONE_SERVED, torch.empty(0)
        self._tested, self._test = 0, torch.empty(0)
        for paths in (
            train,
            test,
        ):  # a set that is not there shows now, not in a worker or after the training
            problems: list[str] = []
            if DecodedBatches(paths, size, epochs).readable(0, problems) is None:
                raise broken(problems)

    @property
    def skipped_images(self) -> int | None:
        """As ImageData."""
        return len(self._problems) if self._complete else None

    def batch(self, index: int) -> Tensor:
        """As ImageData. The workers go on with the batches after it.

        Raises ValueError, naming an image, where the data set is no longer there, RuntimeError where a worker ended.
        """
        if index != self._index:
            if index != self._index + 1:
                self._stream = self._start(index)
            self._index = NONE_SERVED  # a failure leaves no stream to go on with
            images = self._next()
            self._index, self._images = index, images.to(self.device, non_blocking=True)
            self._complete, self._served = (
                self._complete and index <= self._served,
                max(self._served, index + 1),
            )
        return to_float(self._images)

    def evaluation(self, count: int) -> Tensor:
        """As ImageData; decoded when first asked for. Those that cannot be read are missing from the `count`."""
        if count > self._tested:
            self._test, problems = read_all(
                self.test_paths[:count], self.shape[1], "test images", self.batches.fit
            )
            self.note(problems)
            if not len(self._test):
                raise broken(problems)
            self._tested = count
        return to_float(self._test[:count].to(self.device))

    def _next(self) -> Tensor:
        try:
            images, problems = next(self._stream)
        except (RuntimeError, OSError, EOFError) as error:  # which one, depends on what it had done
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RuntimeError(
                f"workers={self.workers}: one that decodes images ended ({reason}); start the run again, it goes on from its "
                "last checkpoint, and with workers=0 it needs none"
            ) from None
        self.note(problems)
        if images is None:
            raise broken(problems)
        return images

    def _start(self, index: int) -> Iterator[tuple[Tensor | None, list[str]]]:
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=itertools.count(index),
            num_workers=self.workers,
            worker_init_fn=leave_signals_to_the_run,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from torch's own
        )
        return iter(loader)

    def note(self, problems: Sequence[str]) -> None:
        """Count images that cannot be read, a line for each, and report those that are new."""
        new = [problem for problem in dict.fromkeys(problems) if problem not in self._problems]
        self._problems.update(new)
        report(new, self.strict)


def load_images(config: RunConfig, device: torch.device) -> ImageData:
    """The image data set of a run: on the device where it fits into MEMORY_LIMIT, else decoded as it is needed.

    Raises FileNotFoundError where its files are missing, ValueError for unreadable ones with config.strict_images, or where
    none of a split can be read, and ParameterError for fewer test images than
    config.feature_network needs.
    """
    train, test = find_images(config.dataset, config.data_dir, config.download)
    unopened = left_out(config.data_dir) if config.dataset == "folder" and config.data_dir else []
    identify = partial(fingerprint, train, test)
    test = shuffled(test)
    size, epochs = (
        image_shape(config)[1],
        partial(Epochs, batch_size=config.batch_size, seed=config.seed, mirror=config.mirror),
    )
    epochs(len(train))  # refuses a batch that is too large before any image is decoded
    data: ImageData
    if (
        isinstance(train, list)
        and isinstance(test, list)
        and 3 * size**2 * len(train + test) > MEMORY_LIMIT
    ):
        options: dict[str, Any] = {
            "workers": config.workers,
            "strict": config.strict_images,
            "processes": config.devices,
        }
        data, count = (
            StreamedImages(
                train, test, size, epochs(len(train)), device, fit=config.fit, **options
            ),
            len(train),
        )
        data.note(unopened)
    else:
        images, problems = decoded(train, size, "training images", config.fit)
        test_images, problems_of_test = decoded(test, size, "test images", config.fit)
        problems_of_all = unopened + problems + problems_of_test
        report(problems_of_all, config.strict_images)
        for split, unreadable in ((images, problems), (test_images, problems_of_test)):
            if not len(split):
                raise broken(unreadable)
        count = len(images)
        data = MemoryImages(images, test_images, epochs(count), device, len(problems_of_all))
    data.fingerprint = identify(count)
    if config.feature_network is not None:
        check_too_few(config, len(data.evaluation(LEAST_SCORED)))
    return data


def check_too_few(config: RunConfig, found: int) -> None:
    """Raise ParameterError where the test images found are too few for config.feature_network."""
    if found < LEAST_SCORED:
        given = f"feature_network={config.feature_network!r}"
        counts = f"at least {LEAST_SCORED} test images, data_dir={config.data_dir!r} has {found}"
        raise ParameterError(f"{given} needs {counts}; add images, or set feature_network=None")


def shuffled(split: Split) -> Split:
    """A split in an order that is always the same. Files have one that means something: MNIST's first half is the cleaner."""
    order = torch.randperm(len(split), generator=generator_for(0, "evaluation"))
    return (
        split[order] if isinstance(split, Tensor) else [split[number] for number in order.tolist()]
    )


def decoded(split: Split, size: int, title: str, fit: Fit = "crop") -> tuple[Tensor, list[str]]:
    """The images of a split as bytes (N, C, H, W), and a line for each that cannot be read."""
    return (split, []) if isinstance(split, Tensor) else read_all(split, size, title, fit)


def image_shape(config: RunConfig) -> tuple[int, ...]:
    """Shape (C, H, W) of one image of the run's data set."""
    if config.dataset != "folder":
        return SHAPES[config.dataset]
    assert config.resolution is not None  # RunConfig completes it
    return (3, config.resolution, config.resolution)


def broken(problems: Sequence[str]) -> ValueError:
    """The error of a data set of which nothing can be read; problems: a line for each file, one at least."""
    return ValueError(
        f"{len(problems)} images in a row cannot be read, the first is {problems[0]}; is the data set whole? "
        "Where it is again, the same run goes on from its last checkpoint"
    )


def report(problems: Sequence[str], strict: bool) -> None:
    """Warn of images that could not be read, naming the first ten; strict: raise a ValueError instead."""
    if not problems:
        return
    names = "; ".join(problems[:10]) + (
        f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    )
    if strict:
        raise ValueError(
            f"strict_images=True and {len(problems)} unreadable: {names}; repair or remove them, or skip them without it"
        )
    warnings.warn(f"images left out because they cannot be read: {names}", stacklevel=2)


def mirrored(images: Tensor, flip: Tensor) -> Tensor:
    """Images (B, C, H, W), left and right swapped in those with flip (B,) true; flip is on the CPU, where a look is free."""
    if not bool(flip.any()):
        return images
    return torch.where(
        flip[:, None, None, None].to(images.device, non_blocking=True), images.flip(-1), images
    )


def to_float(images: Tensor) -> Tensor:
    """Bytes 0..255 to floats in [0, 1]."""
    return images.float() / 255
