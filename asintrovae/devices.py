"""What a device needs: how tensors reach it, and how exactly it computes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for the copy where it is a CUDA GPU.

    A copy to another device is waited for: mps would read memory that is in use again by then.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16; GPUs do from compute capability 8.0 on."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def arithmetic(device: torch.device, precision: str) -> str:
    """Return how a device computes: `precision`, on CUDA with what `computing_on` sets for it."""
    if device.type != "cuda":
        return "32-true" if precision == "tf32" else precision
    return f"{precision}, {'no TF32, deterministic' if exact(precision) else 'TF32, benchmark'}"


def exact(precision: str) -> bool:
    """Return whether a precision is float32 throughout."""
    return precision == "32-true"


@contextmanager
def computing_on(device: torch.device, precision: str) -> Iterator[None]:
    """Let torch compute on a CUDA GPU as a precision says; its settings return afterwards.

    "32-true" takes float32 for every product, and the deterministic ones of cuDNN's algorithms.
    "tf32" and "bf16-mixed" let products of float32 numbers be rounded to TF32, of 11 bits, and
    cuDNN try out which algorithm is fastest, which may add in another order in the next run. The
    GPU is the current one meanwhile. On other devices nothing changes.

    Args:
        device: of the run.
        precision: "32-true", "tf32" or "bf16-mixed".
    """
    if device.type != "cuda":
        yield
        return
    fast, matmul = not exact(precision), torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, fast
    flags = {"enabled": True, "benchmark": fast, "deterministic": not fast, "allow_tf32": fast}
    current = nullcontext() if device.index is None else torch.cuda.device(device)
    try:
        with current, torch.backends.cudnn.flags(**flags):
            yield
    finally:
        matmul.allow_tf32 = before
