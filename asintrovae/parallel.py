"""One run in several processes, each with its share of every batch; together they compute what one process would."""

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from asintrovae.config import ParameterError, RunConfig
from asintrovae.gaussian import Gaussian, full_precision
from asintrovae.interruption import interruptible

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def world() -> tuple[int, int]:
    """Number of this process, from 0, and how many processes there are; (0, 1) outside a process group."""
    ready = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch (B, ...) that all of them know: (B / processes, ...)."""
    rank, count = world()
    return batch.chunk(count)[rank]


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over the processes; backwards the sum of its gradients, since every process's loss depends on it."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Any shape -> the same."""
        return SumOverProcesses.forward(None, gradient.contiguous())


def gather(q: Gaussian) -> Gaussian:
    """The posteriors (B, n) of the whole batch from each process's share; every process gets the gradients of all.

    The AS-Distance compares pairs of examples, so that the mean over shares is not the distance of the batch.
    """
    rank, count = world()
    if count == 1:
        return q
    shares = torch.stack(q).new_zeros(count, 2, *q.mean.shape)
    shares[rank] = torch.stack(q)
    total: Tensor = SumOverProcesses.apply(shares)  # type: ignore[no-untyped-call]
    return Gaussian(*total.transpose(0, 1).flatten(1, 2))


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
    """The largest of the processes' numbers, known to all of them afterwards."""
    if world()[1] == 1:
        return number
    found = torch.tensor(number, device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the examples of all processes, so that a run does not depend on their number.

    torch's SyncBatchNorm does the same on CUDA alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        count = world()[1]
        if count == 1 or not self.training:
            return super().forward(x)
        wide = full_precision(x)
        mean: Tensor = SumOverProcesses.apply(wide.mean((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        centred = wide - mean[:, None, None]
        var: Tensor = SumOverProcesses.apply(centred.square().mean((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        self._track(mean.detach(), var.detach(), count * x.numel() // x.shape[1])
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, var: Tensor, size: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(var * size / (size - 1), step)


def fabric_for(config: RunConfig) -> "Fabric":
    """Device and precision of a run; under torchrun also its process group, one process per GPU or share of the CPU."""
    from lightning_fabric import Fabric  # slow: only those who train wait for it
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    device = config.torch_device()
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        index: list[int] | int = [device.index or 0] if device.type == "cuda" else 1
        alone = LightningEnvironment()  # even where a batch system has started several of us
        return Fabric(accelerator=device.type, devices=index, precision=config.precision, plugins=alone)
    here, everywhere = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = everywhere // here
    fabric = Fabric(accelerator=device.type, devices=here, num_nodes=nodes, strategy="ddp", precision=config.precision)
    fabric.launch()
    return fabric


def run_processes(config: RunConfig, threads: int = 1) -> dict[str, Any]:
    """Train config in config.devices processes on this machine, by asintrovae.worker; returns the result as it wrote it.

    threads: of each process, where neither config.threads nor OMP_NUM_THREADS says it.
    SIGINT and SIGTERM are passed on, so that the processes save and end. Raises ParameterError for more processes than GPUs,
    RuntimeError with the end of what was printed if one failed; the checkpoint is then the last that was saved.
    """
    if config.torch_device().type == "cuda" and config.devices > torch.cuda.device_count():
        raise ParameterError(f"devices={config.devices}: this machine has {torch.cuda.device_count()} GPUs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parameters.json"
        path.write_text(config.model_dump_json())
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.devices)]
        command = [*launcher, "-m", "asintrovae.worker", str(path), "--while-stdin-is-open"]
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        # A session of their own: a signal reaches them through `terminate` below, once and in order.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        last: deque[str] = deque(maxlen=40)
        with interruptible([config.run_dir], forward=processes.terminate), processes:
            assert processes.stderr is not None
            try:
                for line in TextIOWrapper(processes.stderr, errors="replace", newline=""):  # progress, to where one's own goes
                    last.append(line)
                    sys.stderr.write(line)
            except BaseException:
                processes.terminate()
                raise
        if processes.returncode:
            kept = f"run_dir={config.run_dir!r} keeps the last checkpoint, from which the same command goes on"
            raise RuntimeError(f"devices={config.devices}: a process failed; {kept}; the last that was said:\n{''.join(last)}")
        result: dict[str, Any] = json.loads(path.with_name("result.json").read_text())
        return result
