"""Places of image data sets, and which of their files are for training and which for testing."""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asintrovae.config import REGISTRY, expand_home
from asintrovae.data.image_files import shown
from asintrovae.files import embedded

Split = Tensor | list[Path]
"""Images of a split: bytes (N, C, H, W) where they are stored so, else one file per image."""

MNIST_FILES = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")

MNIST_SUMS = (
    "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
)
MNIST_SHA256 = dict(zip(MNIST_FILES, MNIST_SUMS, strict=True))
"""Checksums of their pixels: their packing differs between the places that hand them out."""

NO_PICTURES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""Formats that Pillow knows by name, but that hold measurements, drawings or films."""

OTHER_IMAGES = {".avif", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".eps", ".psb", ".xcf"}

OTHER_IMAGES |= {".exr", ".hdr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"}
"""Endings of images that Pillow cannot open, or only with another package."""

FOREIGN = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"}

FOREIGN |= {"lost+found"}
"""Folders that other programs leave among images, beside those whose names begin with a dot."""


def read_idx(path: Path) -> Tensor:
    """Return the bytes of an IDX file, the format of MNIST.

    Args:
        path: the file, packed by gzip if its name ends so.

    Returns:
        A tensor of the file's shape, uint8.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, gzip.BadGzipFile, zlib.error):
        content = b""
    dims = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    shape = (
        np.frombuffer(content, ">u4", count=dims, offset=4).tolist()
        if len(content) > 4 * dims + 4
        else []
    )
    if not shape or 0 in shape or len(content) != 4 + 4 * dims + math.prod(shape):
        raise ValueError(f"{path} is not a whole IDX file of bytes; delete it and fetch it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dims).reshape(
        shape
    )


def torchvision_datasets() -> Any:
    """Return torchvision.datasets, imported where it is needed because that takes seconds."""
    from asintrovae.data._torchvision import torchvision

    return torchvision.datasets


def mnist(root: Path, download: bool) -> tuple[Split, Split]:
    """Return LeCun et al. 1998: 60,000 and 10,000 digits, 28x28."""
    if download:
        torchvision_datasets().MNIST(root, download=True)
    train, test = (mnist_images(root / "MNIST" / "raw" / name) for name in MNIST_FILES)
    return train, test


def mnist_images(packed: Path) -> Tensor:
    """Return the images (N, 1, 28, 28), uint8, of one of MNIST's files.

    Args:
        packed: the file as it is handed out. torchvision unpacks it, and reads the unpacked file
            alone; that one is read where the packed one is missing.

    Raises:
        ValueError: for a file of other images.
    """
    path = packed if packed.exists() else packed.with_suffix("")
    images = read_idx(path).unsqueeze(1)
    if hashlib.sha256(images.flatten().numpy().data).hexdigest() != MNIST_SHA256[packed.name]:
        raise ValueError(f"{path} does not hold the images of MNIST; delete it and fetch it again")
    return images


def cifar10(root: Path, download: bool) -> tuple[Split, Split]:
    """Return Krizhevsky 2009: 50,000 and 10,000 colour images, 32x32."""
    splits = (
        torchvision_datasets().CIFAR10(root, train=train, download=download)
        for train in (True, False)
    )
    train, test = (
        torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous() for split in splits
    )
    return train, test


def celeba(root: Path, download: bool) -> tuple[Split, Split]:
    """Return Liu et al. 2015, aligned faces, 178x218: 162,770 for training, 19,962 for testing.

    Those for validation are left out.
    """
    faces = root / "celeba" / "img_align_celeba"
    splits = (
        torchvision_datasets().CelebA(root, split, download=download) for split in ("train", "test")
    )
    train, test = ([faces / name for name in split.filename] for split in splits)
    return train, test


def pet(root: Path, download: bool) -> tuple[Split, Split]:
    """Return Oxford-IIIT Pet, Parkhi et al. 2012: 3,680 and 3,669 cats and dogs."""
    splits = (
        torchvision_datasets().OxfordIIITPet(root, split, download=download)
        for split in ("trainval", "test")
    )
    train, test = (list(split._images) for split in splits)
    return train, test


def flowers(root: Path, download: bool) -> tuple[Split, Split]:
    """Return Oxford Flowers-102, Nilsback & Zisserman 2008: 2,040 and 6,149 images.

    The 2,040 are those for training and for validation.
    """
    splits = (
        torchvision_datasets().Flowers102(root, split, download=download)
        for split in ("train", "val", "test")
    )
    train, validation, test = (list(split._image_files) for split in splits)
    return train + validation, test


OPENERS: dict[str, Callable[[Path, bool], tuple[Split, Split]]] = {
    "mnist": mnist,
    "cifar10": cifar10,
    "celeba128": celeba,
    "celeba256": celeba,
    "pet128": pet,
    "flowers64": flowers,
    "flowers128": flowers,
}
"""Functions that open below a root the data sets with a folder of their own in `REGISTRY`."""


def find_images(
    name: str, data_dir: str | None = None, download: bool = False
) -> tuple[Split, Split]:
    """Return training and test split of an image data set; no file is decoded.

    The root is data_dir, else $ASINTROVAE_DATA, else ./data.

    Args:
        name: "mnist-subset" (embedded), "folder" (any images below data_dir) or one of OPENERS,
            whose files torchvision checks.
        data_dir: the root, or the folder of images.
        download: let torchvision fetch into the first of these places what is whole in none.

    Raises:
        FileNotFoundError: with the places looked at and the ways out, or for a download that
            failed.
        ValueError: for a damaged file, and for a name that is none of these.
    """
    if name == "mnist-subset":
        train, test = (read_idx(embedded(name) / file).unsqueeze(1) for file in MNIST_FILES)
        return train, test
    if name == "folder":
        return folder_images(data_dir)
    if name not in OPENERS:
        raise ValueError(
            f"dataset={name!r} is not one of mnist-subset, {', '.join(OPENERS)}, folder"
        )
    named = (
        {"data_dir": data_dir}
        if data_dir
        else {"ASINTROVAE_DATA": os.environ.get("ASINTROVAE_DATA"), "data_dir": "data"}
    )
    roots = [Path(expand_home(place, root)) for place, root in named.items() if root]
    try:
        for root in roots:
            if (splits := open_whole(name, root, download)) is not None:
                return splits
        for root in roots:
            check_too_deep(name, root)
        if download:
            return fetched(name, roots[0])
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        raise ModuleNotFoundError(
            f"dataset={name!r} needs {module}, which is not installed: pip install {module}"
        ) from None
    raise FileNotFoundError(not_found(name, roots))


def open_whole(name: str, root: Path, download: bool) -> tuple[Split, Split] | None:
    """Return the splits of a data set below root; None where it is missing, incomplete or damaged.

    Raises:
        ValueError: names the file where that is known, unless it is to be fetched again.
    """
    try:
        return OPENERS[name](root, False)
    except FileNotFoundError:
        return None
    except ValueError:
        if not download:
            raise
        return None
    except RuntimeError as error:
        if "not found" not in str(error):  # torchvision's words for all three
            raise
        return None


def check_too_deep(name: str, root: Path) -> None:
    """Raise FileNotFoundError where `root` is the folder of the data set itself, or within it."""
    place, given = Path(REGISTRY[name].folder), Path(os.path.abspath(root))
    for right in given.parents[: len(place.parts)]:
        if (right / place).is_dir() and given.relative_to(right) in (place, *place.parents):
            way_out = f"set data_dir='{right}', the folder that holds {place.as_posix()}/"
            raise FileNotFoundError(f"dataset={name!r}: '{root}' is within the data set; {way_out}")


def fetched(name: str, root: Path) -> tuple[Split, Split]:
    """Return the splits of a data set that torchvision fetches into root.

    torchvision compares the checksums before it unpacks anything.

    Raises:
        FileNotFoundError: where the download failed.
    """
    try:
        return OPENERS[name](root, True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        failed = f"dataset={name!r}: the download into {root} failed ({reason})"
        holder = f"the folder that holds {REGISTRY[name].folder}/"
        way_out = f"start again where there is a network, or set data_dir to {holder}"
        raise FileNotFoundError(f"{failed}; {way_out}") from None


def not_found(name: str, roots: list[Path]) -> str:
    """Return where a data set was looked for, and the ways out."""
    folders = [root / REGISTRY[name].folder for root in roots]
    damaged = [folder for folder in folders if folder.exists()]
    if damaged:
        found = f"incomplete or damaged in {damaged[0]}"
        out = "delete it and set download=True to fetch it again"
    else:
        found = f"not found in {' or '.join(map(str, folders))}"
        out = "set download=True to fetch it there"
    if name == "mnist":
        others = "data_dir to where it is, or dataset='mnist-subset' for the embedded 6,000 digits"
        return f"dataset='mnist' {found}; {out}, {others}"
    holder = f"data_dir to the folder that holds {REGISTRY[name].folder}/"
    return f"dataset={name!r} {found}; {out} (papermill: -p download True), or {holder}"


def folder_images(data_dir: str | None) -> tuple[Split, Split]:
    """Return the image files below a folder for training and for testing.

    Where the folder has sub-folders train/ and test/ (else val/, valid/ or validation/) that hold
    images, the latter is for testing and all others are for training. Else every tenth image is
    for testing, from the first on, in the order of their relative paths.

    Args:
        data_dir: the folder. Hidden files and folders, those of FOREIGN and files whose endings are
            not those of `readable` are left out; `left_out` names the images among them. Links are
            followed, each folder is read once.

    Raises:
        FileNotFoundError: for fewer than two images.
    """
    if data_dir is None:
        raise FileNotFoundError("dataset='folder' needs data_dir, the folder that holds the images")
    root, endings = Path(expand_home("data_dir", data_dir)), readable()
    files, problems = files_below(root)
    names = [name for name in files if ending(name) in endings]
    if len(names) < 2:
        place = f"dataset='folder': data_dir={data_dir!r} "
        what = f"holds {len(names)} images" if root.is_dir() else "is not a folder"
        unread = f", {problems[0]} cannot be read" if root.is_dir() and problems else ""
        way_out = (
            "name a folder with two or more (.jpg, .png, .webp, .tif, ... as Pillow opens them)"
        )
        raise FileNotFoundError(f"{place}{what}{unread}; {way_out}")
    testing = for_testing(names)
    train = [root / name for name in names if name not in testing]
    return train, [root / name for name in names if name in testing]


def for_testing(names: list[str]) -> set[str]:
    """Return those of relative paths, in order, that `folder_images` takes for testing."""
    folders: dict[str, list[str]] = {}
    for name in names:
        if "/" in name:
            folders.setdefault(name.split("/")[0].lower(), []).append(name)
    if "train" in folders:
        for folder in ("test", "val", "valid", "validation"):
            if folder in folders:
                return set(folders[folder])
    return set(names[::10])


def left_out(data_dir: str | Path) -> list[str]:
    """Return a line for each image below a folder that Pillow cannot open.

    Args:
        data_dir: the folder. A sub-folder that cannot be read has a line too.
    """
    files, problems = files_below(Path(data_dir))
    others = OTHER_IMAGES - readable()
    unopened = [Path(data_dir, name) for name in files if ending(name) in others]
    why = "Pillow opens no {} files"
    return problems + [f"{shown(path)} ({why.format(ending(path.name))})" for path in unopened]


def files_below(root: Path) -> tuple[list[str], list[str]]:
    """Return the relative paths of the visible files below a folder, sorted.

    The second value is a line for each folder below it, or itself, that cannot be read.
    """
    names: list[str] = []
    problems: list[str] = []
    folders, seen = [root], {os.path.realpath(root)}
    for folder in folders:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(f"{shown(folder)} ({error.strerror})")
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in FOREIGN:
                continue
            path = folder / entry.name
            if entry.is_dir():
                if (real := os.path.realpath(path)) not in seen:  # links may go in a circle
                    seen.add(real)
                    folders.append(path)
            elif entry.is_file() or not path.exists():  # broken links too; no pipes or devices
                names.append(path.relative_to(root).as_posix())
    return sorted(names), problems


def readable() -> set[str]:
    """Return the endings, in small letters, of the image files that Pillow opens here."""
    Image.init()
    formats = Image.OPEN.keys() - NO_PICTURES | {"MPO"}  # MPO is opened as JPEG
    return {suffix for suffix, name in Image.registered_extensions().items() if name in formats}


def ending(name: str) -> str:
    """Return the ending of a file's name in small letters, with its dot."""
    return os.path.splitext(name)[1].lower()


def fingerprint(train: Split, test: Split, count: int) -> str:
    """Return the SHA-256 of a data set, by which a run notices when it goes on with another.

    Moving a data set changes nothing. Of files it covers the names of all below their common
    folder, and the first 64 KiB of a hundred of each split, which takes milliseconds.

    Args:
        train: images for training, or their files.
        test: images for testing, or their files.
        count: training images that are used.
    """
    digest = hashlib.sha256(str(count).encode())
    for split in (train, test):
        if isinstance(split, Tensor):
            digest.update(str(tuple(split.shape)).encode())
            digest.update(split.flatten().numpy().data)
            continue
        names = [path.as_posix() for path in split]
        folder = os.path.commonpath([os.path.dirname(name) for name in (min(names), max(names))])
        digest.update(
            "\0".join(name.removeprefix(folder) for name in names).encode(errors="surrogateescape")
        )
        for path in split[:: math.ceil(len(split) / 100)]:
            digest.update(hashlib.sha256(beginning(path)).digest())
    return digest.hexdigest()


def beginning(path: Path) -> bytes:
    """Return the first 64 KiB of a file; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(2**16)
    except OSError:
        return b""
