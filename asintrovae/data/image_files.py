"""Image files of any kind to squares of RGB bytes, and back.

Pillow decodes them, since torchvision's codecs are not everywhere.
"""

import io
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from asintrovae.files import write_atomically
from asintrovae.ranges import check_other_range
from asintrovae.threads import processors

Fit = Literal["crop", "squeeze"]


def decode(path: Path, size: int, fit: Fit = "crop") -> Tensor:
    """Return an image as a square, resized (bicubic, antialiased).

    A rotation noted in EXIF is applied first.

    Args:
        path: the file.
        size: height and width of the square, in pixels.
        fit: "crop" takes the largest centred square, "squeeze" the whole image, in other
            proportions.

    Returns:
        (3, size, size), uint8.

    Raises:
        Exception: whatever Pillow raises for files that it cannot read.
    """
    with Image.open(path) as file:
        image = to_rgb(ImageOps.exif_transpose(file))
    if fit == "squeeze":
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    square = image.resize(
        (size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
    )
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB.

    16-bit greys are scaled, since Pillow clips them; transparency is laid on white.

    Raises:
        ValueError: for pixels without a known range, which are floats and integers of more than
            16 bits.
    """
    if image.mode[0] == "I":
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(
                f"its pixels run from {grey.min()} to {grey.max()}, which is no 8- or 16-bit range"
            )
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floats without a known range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read(path: Path, size: int, fit: Fit = "crop") -> Tensor | str:
    """Return the image as `decode` does, or one line that names the file and says why it cannot."""
    try:
        return decode(path, size, fit)
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        known = (
            "it is no image that Pillow knows"
            if isinstance(error, UnidentifiedImageError)
            else getattr(error, "strerror", None)
        )
        return f"{shown(path)} ({known or ' '.join(str(error).split()) or type(error).__name__})"


def shown(path: Path) -> str:
    """Return a path as text in one line, quoted where it cannot be printed."""
    return str(path) if str(path).isprintable() else repr(str(path))


def read_all(
    paths: Sequence[Path],
    size: int,
    title: str,
    fit: Fit = "crop",
    device: torch.device | None = None,
) -> tuple[Tensor, list[str]]:
    """Return all images that can be read, decoded on all processors that this process may use.

    Args:
        paths: files, N of them.
        size: height and width, in pixels.
        title: for the progress bar.
        fit: as in `decode`.
        device: where the images go; by default the CPU. Its memory is taken at once.

    Returns:
        The images (N or fewer, 3, size, size), uint8, in order, and a line for each other file.
    """
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8, device=device)
    problems, count = [], 0
    with ThreadPoolExecutor(processors()) as pool:
        for found in tqdm(
            pool.map(partial(read, size=size, fit=fit), paths), title, len(paths), leave=False
        ):
            if isinstance(found, str):
                problems.append(found)
            else:
                images[count], count = found, count + 1
    return images[:count], problems


def write_row(path: Path, images: Tensor) -> None:
    """Write images side by side as a PNG of N W x H pixels.

    Args:
        path: the file.
        images: (N, C, H, W) in [0, 1]; values outside are clamped.

    Raises:
        ValueError: for images that are evidently in another range.
    """
    check_other_range("images", images, generated=True)
    pixels = (images.detach().cpu().clamp(0, 1) * 255).round().byte()
    row = torch.cat(list(pixels), dim=-1).permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(row.squeeze(-1).numpy()).save(file, "png", optimize=True)
    write_atomically(path, file.getvalue())


def read_row(path: Path) -> Tensor:
    """Return the images (N, C, H, H) in [0, 1] of a PNG that `write_row` wrote."""
    pixels = torch.from_numpy(np.array(Image.open(path)))  # grey has no third axis
    row = pixels.reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
    return torch.stack(torch.split(row, row.shape[1], dim=-1)).float() / 255


def leave_signals_to_the_run(_: int) -> None:
    """Make a process that only loads data outlast the signals that end a run.

    A batch system tells all processes to end, and without data the run could not save. From the
    run itself SIGTERM is obeyed: that is how multiprocessing ends, at exit, what is still there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(
        signal, "sigwaitinfo"
    ):  # macOS has none: SIGTERM ends this process there, whoever sends it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
