"""One run in several processes, each with its share of every batch.

Together they compute what one process would.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes.

    They are (0, 1) outside a process group.
    """
    ready = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)


def share(batch: Tensor) -> Tensor:
    """Return this process's part, (B / processes, ...), of a batch (B, ...) that all know."""
    rank, count = world()
    return batch.chunk(count)[rank]


def sum_(x: Tensor) -> Tensor:
    """Replace a tensor by its sum over the processes, in place, and return it."""
    dist.all_reduce(x)
    return x


def own_of(x: Tensor) -> Tensor:
    """Return zeros (processes, ...) that hold x (...) in the place of this process.

    Their sum over the processes holds what each has.
    """
    rank, count = world()
    places = x.new_zeros(count, *x.shape)
    places[rank] = x
    return places


def of_all(x: Tensor) -> Tensor:
    """Return what each process has, (processes, ...), from its own x (...), without gradients."""
    return sum_(own_of(x))


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over the processes.

    Backwards it is the sum of its gradients, since every process's loss depends on it.
    """

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """Return the sum of x, of any shape, over the processes."""
        return sum_(x.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Return the sum of the gradient over the processes."""
        return SumOverProcesses.forward(None, gradient.contiguous())


def gather(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return tensors (B, ...) of the whole batch from each process's share of them.

    Every process gets the gradients of all. The AS-Distance compares pairs of examples, so that the
    mean over shares is not the distance of the batch.

    Args:
        tensors: shares of one shape, (B / processes, ...).
    """
    if world()[1] == 1:
        return tensors
    own = torch.stack(tuple(tensors))
    total: Tensor = SumOverProcesses.apply(own_of(own))  # type: ignore[no-untyped-call]
    return total.transpose(0, 1).flatten(1, 2).unbind()


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place and in one exchange."""
    count = world()[1]
    if count == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, mean in zip(tensors, torch.split(flat / count, sizes), strict=True):
        tensor.copy_(mean.view(tensor.shape))


def largest(number: int, device: torch.device) -> int:
    """Return the largest of the processes' numbers, to all of them.

    Args:
        number: this process's.
        device: of the exchange.
    """
    if world()[1] == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)
