"""Image data sets as floats in [0, 1].

They are held on the device as bytes, or decoded as they are needed.
"""

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asintrovae.collectives import world
from asintrovae.config import REGISTRY, ParameterError, RunConfig
from asintrovae.data.image_files import Fit, leave_signals_to_the_run, read, read_all
from asintrovae.data.sources import Split, find_images, fingerprint, left_out
from asintrovae.devices import moved
from asintrovae.randomness import generator_for
from asintrovae.threads import processors

MEMORY_LIMIT = 2**30
"""Bytes of a data set, both splits, up to which it is decoded at once and kept on the device."""

SHARE_OF_CARD = 0.25
"""Share of a CUDA GPU's free memory that a larger data set may take; see `room_on_card`."""

LEAST_SCORED = 4
"""Test images that a feature network needs: precision and recall look at three neighbours."""

LONGEST_GAP = 100
"""Unreadable images in a row from which on the data set is broken, not an image."""


class ImageData(ABC):
    """Shuffled epochs over images; the batch of iteration i depends on (seed, i) alone.

    Attributes:
        shape: of one image, (C, H, W).
        fingerprint: of the files it was loaded from (`sources.fingerprint`); empty where the images
            were given as tensors.
    """

    shape: tuple[int, ...]
    fingerprint: str = ""

    @property
    @abstractmethod
    def skipped_images(self) -> int | None:
        """Number of images that could not be read and were left out or replaced.

        Of a set in memory it counts all, of a streamed one those met. Images of a folder that
        `left_out` names count too; a sub-folder that cannot be read is one. None where others met
        some too: a streamed run in several processes, or one that was resumed.
        """

    @abstractmethod
    def batch(self, index: int) -> Tensor:
        """Return batch number `index` over all epochs.

        Returns:
            (B, C, H, W) in [0, 1] on the device; in one process of several its share of the batch.
        """

    @abstractmethod
    def evaluation(self, count: int) -> Tensor:
        """Return test images.

        Args:
            count: how many; a larger count begins with the same images, and they are the same for
                every run.

        Returns:
            (count, C, H, W) in [0, 1] on the device, or fewer where there are no more.
        """

    def test_images(self, count: int) -> Tensor:
        """Return the images of `evaluation` as they are kept, to be taken to the device in parts.

        Returns:
            (count, C, H, W), bytes or in [0, 1], on any device.
        """
        return self.evaluation(count)


class Epochs:
    """Numbers of the images of each batch.

    Each epoch is a permutation, its incomplete last batch left out. Of several processes each gets
    its share of the batch.

    Args:
        count: N training images.
        batch_size: B, at most N.
        seed: of the run.
        mirror: flip half of the images, drawn anew each epoch.

    Raises:
        ValueError: for a batch of more than N.
    """

    def __init__(self, count: int, batch_size: int, seed: int, mirror: bool = False) -> None:
        if batch_size > count:
            images = f"the {count} training images that can be read"
            raise ValueError(f"batch_size={batch_size} exceeds {images}; make it smaller")
        self.count, self.batch_size, self.seed, self.mirror = count, batch_size, seed, mirror
        self.world = world()  # noted here, since a process that only decodes belongs to no group
        self._epoch, self._order, self._flip = -1, torch.empty(0), torch.empty(0)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the images of batch number `index` over all epochs.

        Returns:
            The images' numbers (B,), and which of them are mirrored (B,).
        """
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
    """Images that live on the device, which nothing that happens to their files can change.

    Args:
        train: (N, C, H, W), uint8.
        test: (M, C, H, W), uint8.
        epochs: numbers of the images of each batch.
        device: where both are kept.
        skipped_images: number of images that could not be read.
    """

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
        """Number of images that could not be read, as in ImageData."""
        return self._skipped

    def batch(self, index: int) -> Tensor:
        """Return batch number `index`, as in ImageData."""
        numbers, flip = self.epochs.batch(index)
        return to_float(mirrored(self.train[moved(numbers, self.train.device)], flip))

    def evaluation(self, count: int) -> Tensor:
        """Return test images, as in ImageData."""
        return to_float(self.test_images(count))

    def test_images(self, count: int) -> Tensor:
        """Return bytes on the device, as in ImageData."""
        return self.test[:count]


class DecodedBatches(Dataset[tuple[Tensor | None, list[str]]]):
    """Batches as a worker computes them.

    Item `index` is that batch as bytes (B, 3, size, size), and a line for each image that was
    replaced. In the place of the batch is None where LONGEST_GAP images in a row cannot be read.

    Args:
        paths: one file per training image.
        size: H and W, in pixels.
        epochs: numbers of the images of each batch.
        fit: as in `decode`.
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
        """Return image `number`, or the next that can be read.

        Args:
            number: of the image, among the paths.
            problems: a line for each image that cannot be read is added.

        Returns:
            (3, size, size), uint8; None where none of all images, or of LONGEST_GAP in a row, can
            be read.
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
    """Images that worker processes decode ahead of their use.

    Asking for batches out of order works, but starts the workers anew. An unreadable training image
    is replaced by the next readable one, with a warning.

    Args:
        train: one file per training image.
        test: one file per test image.
        size: H and W, in pixels.
        epochs: numbers of the images of each batch.
        device: where batches go.
        workers: of each process of the run; 0 decodes in this one, None is one per core, at most 8.
        strict: raise a ValueError for an unreadable image.
        processes: of the run.
        fit: as in `decode`.
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
        """Number of images that could not be read, as in ImageData."""
        return len(self._problems) if self._complete else None

    def batch(self, index: int) -> Tensor:
        """Return batch number `index`, as in ImageData; the workers go on with the next.

        Raises:
            ValueError: names an image, where the data set is no longer there.
            RuntimeError: where a worker ended.
        """
        if index != self._index:
            if index != self._index + 1:
                self._stream = self._start(index)
            self._index = NONE_SERVED  # a failure leaves no stream to go on with
            images = self._next()
            self._index, self._images = index, moved(images, self.device)
            self._complete, self._served = (
                self._complete and index <= self._served,
                max(self._served, index + 1),
            )
        return to_float(self._images)

    def evaluation(self, count: int) -> Tensor:
        """Return test images, as in ImageData."""
        return to_float(self.test_images(count).to(self.device))

    def test_images(self, count: int) -> Tensor:
        """Return bytes on the CPU, as in ImageData, decoded when they are first asked for.

        Those that cannot be read are missing from the `count`.
        """
        if count > self._tested:
            self._test, problems = read_all(
                self.test_paths[:count], self.shape[1], "test images", self.batches.fit
            )
            self.note(problems)
            if not len(self._test):
                raise broken(problems)
            self._tested = count
        return self._test[:count]

    def _next(self) -> Tensor:
        """Return the bytes of the next batch from the workers."""
        try:
            images, problems = next(self._stream)
        except (RuntimeError, OSError, EOFError) as error:  # which one, depends on what it had done
            reason = " ".join(str(error).split()) or type(error).__name__
            what = f"workers={self.workers}: one that decodes images ended ({reason})"
            way_out = "start the run again, it goes on from its last checkpoint"
            raise RuntimeError(f"{what}; {way_out}, and with workers=0 it needs none") from None
        self.note(problems)
        if images is None:
            raise broken(problems)
        return images

    def _start(self, index: int) -> Iterator[tuple[Tensor | None, list[str]]]:
        """Return the workers' batches from number `index` on."""
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
    """Return the image data set of a run.

    It is on the device where it fits into MEMORY_LIMIT or `room_on_card`, else decoded as it is
    needed.

    Args:
        config: parameters of the run.
        device: where batches go.

    Raises:
        FileNotFoundError: where files of the data set are missing.
        ValueError: for unreadable files with config.strict_images, or where none of a split can be
            read.
        ParameterError: for fewer test images than config.feature_network needs.
    """
    train, test = find_images(config.dataset, config.data_dir, config.download)
    unopened = left_out(config.data_dir) if config.dataset == "folder" and config.data_dir else []
    identify = partial(fingerprint, train, test)
    test = shuffled(test)
    size = image_shape(config)[1]
    epochs = partial(Epochs, batch_size=config.batch_size, seed=config.seed, mirror=config.mirror)
    count = len(train)
    all_epochs = epochs(count)  # refuses a batch that is too large before any image is decoded
    data: ImageData
    files = isinstance(train, list) and isinstance(test, list)
    needed = 3 * size**2 * (count + len(test))
    if files and needed > MEMORY_LIMIT:
        assert isinstance(train, list)
        assert isinstance(test, list)
        streamed = StreamedImages(
            train,
            test,
            size,
            all_epochs,
            device,
            workers=config.workers,
            strict=config.strict_images,
            processes=config.devices,
            fit=config.fit,
        )
        streamed.note(unopened)
        fits = needed <= room_on_card(config, count, device)
        data = on_card(streamed, train, test) if fits else streamed
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


def room_on_card(config: RunConfig, count: int, device: torch.device) -> float:
    """Return the bytes that a data set of more than MEMORY_LIMIT may take on the device.

    It is SHARE_OF_CARD of what no process holds at the time. 0 where images are decoded as they are
    needed in any case: on other devices than CUDA GPUs, in a run of several processes, each of
    which would decode all images, and in a run that ends before it has seen as many images.

    Args:
        config: parameters of the run.
        count: N training images.
        device: where batches go.
    """
    one_epoch = config.iterations * config.batch_size >= count
    if device.type != "cuda" or config.devices > 1 or not one_epoch:
        return 0
    return SHARE_OF_CARD * torch.cuda.mem_get_info(device)[0]


def on_card(streamed: StreamedImages, train: Sequence[Path], test: Sequence[Path]) -> ImageData:
    """Return a streamed data set with its images on its device, which gives the same batches.

    The memory is taken before the first image is decoded: a process that looks next finds it
    taken. Where an image cannot be read, the set stays streamed: a set in memory would renumber the
    others.
    """
    size, fit = streamed.shape[1], streamed.batches.fit
    images, problems = read_all([*train, *test], size, "images", fit, streamed.device)
    if problems:
        streamed.note(problems)
        return streamed
    splits = images[: len(train)], images[len(train) :]
    unopened = streamed.skipped_images or 0
    return MemoryImages(*splits, streamed.batches.epochs, streamed.device, unopened)


def check_too_few(config: RunConfig, found: int) -> None:
    """Raise ParameterError where the test images found are too few for config.feature_network."""
    if found < LEAST_SCORED:
        given = f"feature_network={config.feature_network!r}"
        counts = f"at least {LEAST_SCORED} test images, data_dir={config.data_dir!r} has {found}"
        raise ParameterError(f"{given} needs {counts}; add images, or set feature_network=None")


def shuffled(split: Split) -> Split:
    """Return a split in another order, always the same one.

    The order of files means something: MNIST's first half is the cleaner.
    """
    order = torch.randperm(len(split), generator=generator_for(0, "evaluation"))
    if isinstance(split, Tensor):
        return split[order]
    return [split[number] for number in order.tolist()]


def decoded(split: Split, size: int, title: str, fit: Fit = "crop") -> tuple[Tensor, list[str]]:
    """Return the images of a split (N, C, H, W), uint8, and a line for each that cannot be read."""
    return (split, []) if isinstance(split, Tensor) else read_all(split, size, title, fit)


def image_shape(config: RunConfig) -> tuple[int, ...]:
    """Return the shape (C, H, W) of one image of the run's data set."""
    shape = REGISTRY[config.dataset].shape
    if shape is None:
        assert config.resolution is not None  # RunConfig completes it
        shape = (3, config.resolution, config.resolution)
    return shape


def broken(problems: Sequence[str]) -> ValueError:
    """Return the error of a data set of which nothing can be read.

    Args:
        problems: a line for each file, one at least.
    """
    what = f"{len(problems)} images in a row cannot be read, the first is {problems[0]}"
    way_out = "Where it is again, the same run goes on from its last checkpoint"
    return ValueError(f"{what}; is the data set whole? {way_out}")


def report(problems: Sequence[str], strict: bool) -> None:
    """Warn of images that could not be read, naming the first ten.

    Args:
        problems: a line for each image.
        strict: raise a ValueError instead.
    """
    if not problems:
        return
    more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
    names = "; ".join([*problems[:10], *more])
    if strict:
        what = f"strict_images=True and {len(problems)} unreadable: {names}"
        raise ValueError(f"{what}; repair or remove them, or skip them without it")
    warnings.warn(f"images left out because they cannot be read: {names}", stacklevel=2)


def mirrored(images: Tensor, flip: Tensor) -> Tensor:
    """Return images with left and right swapped in those that `flip` names.

    Args:
        images: (B, C, H, W).
        flip: (B,), bool, on the CPU, where reading it is free.
    """
    if not bool(flip.any()):
        return images
    flip = moved(flip, images.device)[:, None, None, None]
    return torch.where(flip, images.flip(-1), images)


def to_float(images: Tensor) -> Tensor:
    """Return bytes 0..255 as floats in [0, 1]."""
    return images.float() / 255
