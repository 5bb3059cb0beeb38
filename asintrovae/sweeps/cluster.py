"""The Dask workers that run the points of a grid."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import torch

from asintrovae.build import check_giant
from asintrovae.config import ParameterError
from asintrovae.sweeps.grid import Point, sweep_imports
from asintrovae.sweeps.point import GRACE
from asintrovae.threads import processors

RUNNING: dict[str, "subprocess.Popen[bytes]"] = {}
"""In a Dask worker: the process of each point it runs, by run_dir."""


def run_point(point: Point, gpus: Sequence[str] = ()) -> None:
    """Execute a point on a Dask worker, in a process of its own.

    Args:
        point: of a grid.
        gpus: CUDA_VISIBLE_DEVICES for each worker of a local cluster; empty leaves them as they
            are.

    Raises:
        RuntimeError: with the reason, if it failed.
    """
    from distributed import get_worker

    environment = {"OMP_NUM_THREADS": str(point.config.threads or 1), **os.environ}
    if gpus:  # workers of a local cluster are called 0, 1, ..., a restarted one as before
        environment["CUDA_VISIBLE_DEVICES"] = gpus[int(get_worker().name) % len(gpus)]
    command = [sys.executable, "-m", "asintrovae.sweeps", "--point", point.name]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "bufsize": 0,
    }
    # A session of its own: Ctrl-C reaches it through its stdin, after the scheduler knows that it
    # is not to be retried.
    pipes |= {"cwd": point.folder, "env": environment, "start_new_session": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        RUNNING[str(point.run_dir)] = process
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(point)).encode() + b"\n")
        # Its output ends when the kernel, too, is gone.
        said = process.stdout.read().decode(errors="replace").strip()
    RUNNING.pop(str(point.run_dir), None)
    if process.returncode:
        ended = f"its process ended with status {process.returncode}"
        raise RuntimeError(said.splitlines()[-1] if said else ended)


def dask_setup(_: Any) -> None:
    """Leave Ctrl-C to the client; called in each worker of a local cluster by Dask's preload."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_points(run_dirs: Sequence[str]) -> None:
    """Ask the processes of points that run on this Dask worker to end, and wait for them."""
    processes = [RUNNING[run_dir] for run_dir in run_dirs if run_dir in RUNNING]
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def run_points(client: Any, points: list[Point], gpus: Sequence[str], bar: Any) -> int:
    """Run points on a cluster, each that failed once more.

    Args:
        client: of the cluster.
        points: to run.
        gpus: as for `run_point`.
        bar: tqdm's, which counts the points; failures are written above it.

    Returns:
        How many points failed twice.
    """
    from distributed import as_completed

    futures = client.map(run_point, points, gpus=gpus, pure=False, retries=1)
    names = {future.key: point.name for future, point in zip(futures, points, strict=True)}
    if len(set(names.values())) < len(names):  # of several grids
        paths = (str(point.run_dir) for point in points)
        names = dict(zip(names, paths, strict=True))
    failed = 0
    try:
        for future in as_completed(futures):
            if future.status != "finished":
                error = f"failed twice: {future.exception()}"
                if future.status in ("cancelled", "lost"):
                    error = "the cluster is gone; the same command goes on"
                bar.write(f"{names[future.key]}: {error}", file=sys.stderr)
                failed += 1
            future.release()  # a kept result is made again when the worker that has it dies
            bar.set_postfix(failed=failed, refresh=False)
            bar.update()
    except KeyboardInterrupt:
        client.cancel(futures)
        bar.write("the runs save first; another Ctrl-C does not wait for them", file=sys.stderr)
        client.run(end_points, [str(point.run_dir) for point in points], on_error="ignore")
        raise
    return failed


@contextmanager
def cluster_for(
    points: list[Point], scheduler: str | None, workers: int | None
) -> Iterator[tuple[Any, list[str]]]:
    """Yield a client of a Dask cluster, and the GPUs of its workers.

    Args:
        points: to run; they decide how many workers are of use.
        scheduler: address of a running cluster; None starts one on this machine.
        workers: of a cluster on this machine; None is one for each core, or each GPU.

    Yields:
        The client, and CUDA_VISIBLE_DEVICES for each worker, empty where it is left as it is.

    Raises:
        ParameterError: where the scheduler does not answer, and for a point larger than this
            machine.
    """
    with sweep_imports():
        import dask
        from distributed import Client, LocalCluster
    if scheduler is not None:
        try:
            client = Client(scheduler)
        except (OSError, ValueError) as error:
            silent = f"scheduler={scheduler!r} does not answer ({error})"
            raise ParameterError(f"{silent}; start it, or leave --scheduler out") from None
        with client:
            yield client, []
        return
    for point in points:
        check_giant(point.config)
    cuda = any(point.config.torch_device().type == "cuda" for point in points)
    devices = max(point.config.devices for point in points)
    groups = gpu_groups(devices) if cuda else []
    count = min(len(points), workers or len(groups) or max(1, processors() // devices))
    # A point whose worker dies goes on elsewhere, up to the tenth time.
    rules = {"allowed-failures": 10, "worker-saturation": 1.0}
    with dask.config.set({f"distributed.scheduler.{name}": rule for name, rule in rules.items()}):
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=None,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            preload=[__name__],
        )
        with cluster, Client(cluster) as client:
            yield client, groups


def gpu_groups(size: int) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES for as many workers as there are groups of `size` GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
    if size > len(gpus):
        raise ParameterError(f"devices={size}: this machine has {len(gpus)} GPUs")
    return [",".join(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size)]
