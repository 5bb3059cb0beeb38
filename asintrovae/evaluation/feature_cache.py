"""Features of real images, computed once and kept in a folder of the user."""

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm  # text: a widget would be there even where the bar never shows

from asintrovae.devices import arithmetic
from asintrovae.evaluation.features import RESIZE, FeatureNetwork, to_bytes
from asintrovae.files import write_atomically
from asintrovae.ranges import check_other_range

PART = 500
"""Real images whose features are kept in one file; an interruption costs at most so many."""


def cache_dir() -> Path:
    """Return where features of real images are kept.

    That is $ASINTROVAE_CACHE, else asintrovae/ in the user's cache, which is ~/.cache. A user
    without a home folder, as in some containers, has asintrovae/ in the temporary folder.
    """
    of_user = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "asintrovae"
    try:
        return Path(os.environ.get("ASINTROVAE_CACHE") or of_user).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir(), "asintrovae")


def real_features(network: FeatureNetwork, images: Tensor, dataset: str, split: str) -> Tensor:
    """Return the features of real images; those of "inception" are computed once and kept.

    They are kept in `cache_dir`, 8 kB an image, PART images at a time, so an interrupted
    computation goes on where it was, and a larger N of the same images uses them. The header of a
    file says which features it holds; a damaged file, or one of other images or weights, is
    computed again with a warning. The folder may be deleted at any time.

    Args:
        network: from `build_features`.
        images: (N, C, H, W), bytes or floats in [0, 1].
        dataset: name of the data set.
        split: "train" or "test".

    Returns:
        (N, F), float32.

    Raises:
        ValueError: for floats outside [0, 1].
    """
    if images.dtype != torch.uint8:
        check_other_range("images", images)
    if network.name != "inception":  # takes seconds
        return network(images)
    parts = tqdm(
        torch.split(images, PART),
        desc=f"{dataset}, {split}",
        unit=f"{PART} images",
        delay=5,
        leave=False,
    )
    return torch.cat(
        [_part(network, part, dataset, split, index * PART) for index, part in enumerate(parts)]
    )


def sha256(tensor: Tensor) -> str:
    """Return the SHA-256 of the bytes of a tensor on the CPU."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _part(network: FeatureNetwork, images: Tensor, dataset: str, split: str, first: int) -> Tensor:
    """Return the features of PART images, from their file where it holds them."""
    pixels = to_bytes(images).cpu()
    key = {"dataset": dataset, "split": split, "first": str(first), "count": str(len(pixels))}
    key |= {"resolution": "x".join(map(str, pixels.shape[2:])), "images": sha256(pixels)}
    key |= {"network": network.name, "weights": network.weights, "resize": RESIZE}
    precision = arithmetic(network.device, network.precision)
    key |= {"precision": precision, "device": network.device.type}
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    path = cache_dir() / f"{dataset}-{split}-{first}-{name}.safetensors"
    if (features := _kept(path, key)) is None:
        features = network(pixels)
        try:
            write_atomically(
                path, save({"features": features}, metadata={**key, "sha256": sha256(features)})
            )
        except OSError as error:
            ways = "set ASINTROVAE_CACHE to a folder that can be written"
            warnings.warn(
                f"features of {dataset} are not kept in {cache_dir()} ({error.strerror}); {ways}",
                stacklevel=3,
            )
    return features


def _kept(path: Path, key: dict[str, str]) -> Tensor | None:
    """Return the features that a file keeps under this key, None where it does not."""
    try:
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            header: dict[str, str] = file.metadata() or {}
            features: Tensor = file.get_tensor("features").clone()  # else the file stays mapped
        other = [
            f"{name}={header.get(name)!r} instead of {key[name]!r}"
            for name in key
            if header.get(name) != key[name]
        ]
        if not other and header.get("sha256") == sha256(features):
            return features
        reason = (
            f"is of {', '.join(other)}"
            if other
            else "is damaged (its features do not fit their checksum)"
        )
    except (SafetensorError, OSError) as error:
        reason = f"is damaged ({error})"
    warnings.warn(f"{path} {reason}; its features are computed again", stacklevel=4)
    return None
