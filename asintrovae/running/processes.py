"""The device of a run, and the processes that share it."""

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from asintrovae.config import ParameterError, RunConfig
from asintrovae.running.signals import interruptible

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fabric_for(config: RunConfig) -> "Fabric":
    """Return device and precision of a run, a Fabric of Lightning.

    Under torchrun it also has the process group, one process for each GPU or share of the CPU.
    """
    from lightning_fabric import Fabric  # slow: only those who train wait for it
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    device = config.torch_device()
    half: Literal["bf16-mixed"] = "bf16-mixed"
    precision = half if config.precision == half else None  # autocast or not
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        index: list[int] | int = [device.index or 0] if device.type == "cuda" else 1
        alone = LightningEnvironment()  # even where a batch system has started several of us
        return Fabric(accelerator=device.type, devices=index, precision=precision, plugins=alone)
    here, everywhere = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    nodes = everywhere // here
    fabric = Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=nodes,
        strategy="ddp",
        precision=precision,
    )
    fabric.launch()
    return fabric


def run_processes(config: RunConfig, threads: int = 1) -> dict[str, Any]:
    """Train a run in config.devices processes on this machine, by asintrovae.running.worker.

    SIGINT and SIGTERM are passed on, so that the processes save and end.

    Args:
        config: parameters of the run.
        threads: of each process, where neither config.threads nor OMP_NUM_THREADS says it.

    Returns:
        The fields of the TrainingResult, as the first process wrote them.

    Raises:
        ParameterError: for more processes than GPUs.
        RuntimeError: with the end of what was printed, if one failed; the checkpoint is then the
            last that was saved.
    """
    if config.torch_device().type == "cuda" and config.devices > torch.cuda.device_count():
        raise ParameterError(
            f"devices={config.devices}: this machine has {torch.cuda.device_count()} GPUs"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parameters.json"
        path.write_text(config.model_dump_json())
        count = ["--nproc-per-node", str(config.devices)]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *count]
        worker = ["-m", "asintrovae.running.worker", str(path), "--while-stdin-is-open"]
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        # A session of their own: a signal reaches them through `terminate` below, once, in order.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
        pipes |= {"env": environment, "start_new_session": True}
        processes = subprocess.Popen([*launcher, *worker], **pipes)
        last: deque[str] = deque(maxlen=40)
        with interruptible([config.run_dir], forward=processes.terminate), processes:
            assert processes.stderr is not None
            try:
                # progress, to where one's own goes
                for line in TextIOWrapper(processes.stderr, errors="replace", newline=""):
                    last.append(line)
                    sys.stderr.write(line)
            except BaseException:
                processes.terminate()
                raise
        if processes.returncode:
            kept = f"run_dir={config.run_dir!r} keeps the last checkpoint"
            failed = f"a process failed; {kept}, from which the same command goes on"
            said = f"the last that was said:\n{''.join(last)}"
            raise RuntimeError(f"devices={config.devices}: {failed}; {said}")
        result: dict[str, Any] = json.loads(path.with_name("result.json").read_text())
        return result
