"""Processors that this process may use, and torch's number of threads while something runs."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch
from torch import Tensor


def processors(root: Path = Path("/")) -> int:
    """Return how many processors this process may use: those of its affinity, fewer under a quota.

    Args:
        root: the folder that holds proc/self/cgroup and sys/fs/cgroup.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, int(min([allowed, *quotas(root)])))


def quotas(root: Path) -> Iterator[float]:
    """Yield the processors that each control group of this process allows, those above it included.

    Version 2 keeps "quota period" in cpu.max, version 1 keeps two files; a group without a quota
    yields nothing. A container may see its own group at the top, so every folder up to there
    counts.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in groups if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in (controllers, "cpu") if controllers else ("",):
            top = root / "sys/fs/cgroup" / mount
            group = top / path.strip("/")
            for folder in (group, *group.parents[: len(Path(path.strip("/")).parts)]):
                with suppress(OSError, ValueError, ZeroDivisionError):
                    quota, period = quota_of(folder, bool(controllers))
                    if quota > 0:
                        yield quota / period


def quota_of(folder: Path, version_1: bool) -> tuple[int, int]:
    """Return quota and period of a control group in µs; ValueError or a quota of -1 for none."""
    if version_1:
        names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
        quota, period = (int((folder / name).read_text()) for name in names)
    else:
        quota, period = map(int, (folder / "cpu.max").read_text().split())
    return quota, period


@contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """Let torch compute with `count` threads inside, and restore its number at the end.

    The number is that of the calling thread and of threads that first call torch meanwhile.

    Yields:
        The number it had.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def one_thread(x: Tensor) -> AbstractContextManager[int]:
    """Return `torch_threads(1)` for a tensor on the CPU, for others a context that does nothing.

    There threads have no part in the work, and compiled code cannot set their number. It yields 1.
    """
    return torch_threads(1) if x.is_cpu else nullcontext(1)
