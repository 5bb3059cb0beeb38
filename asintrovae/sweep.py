"""Grids of papermill runs on Dask: asintrovae-sweep GRID.yaml. Interrupted in any way, the same command goes on."""

import argparse
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from asintrovae.build import refuse_giant
from asintrovae.config import DATASETS, ParameterError
from asintrovae.data.sources import find_images
from asintrovae.ensemble import cost, refuse_misfits, run_ensemble, shape_of
from asintrovae.grid import DONE, Point, extra, given_parameters, read_grid, state, write_table
from asintrovae.threads import processors

GRACE = 600.0
"""Seconds that a run has to save when it is asked to end."""
ENDING = threading.Event()
"""In the process of a point: set once it was asked to end."""
RUNNING: dict[str, "subprocess.Popen[bytes]"] = {}
"""In a Dask worker: the process of each point it runs, by run_dir."""


def execute_point() -> int:
    """In a process of its own: execute the point that the first line of stdin describes.

    Returns 0, or 1 with the reason on stdout where it failed. When stdin ends, or SIGTERM comes, the
    kernel is asked to end, which saves first: the Dask worker is then gone, or wants an end.
    """
    with extra():
        import psutil  # noqa: F401 (for end_with_stdin, whose thread nobody hears)
        from filelock import FileLock
        from papermill import PapermillExecutionError
    point = Point(**json.loads(sys.stdin.readline()))
    point.run_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder_of_sockets()) as folder:
        threading.Thread(target=end_with_stdin, args=[folder], daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end, args=[folder]).start())
        with FileLock(point.run_dir / ".lock"):  # nothing runs twice at once, whoever asks for it
            try:
                execute_notebook(point, folder)
            except PapermillExecutionError as error:
                log(point, "interrupted" if ENDING.is_set() else "failed")
                print(reason(error))
                return 1
    return 0


LONGEST_FOLDER = 90
"""Bytes of a folder's path that leave room for the name of a socket: both have 103 or 107 bytes."""


def folder_of_sockets() -> str:
    """Return the folder for temporary files, or /tmp where its path is too long for a socket's."""
    folder = tempfile.gettempdir()
    long = len(os.fsencode(folder)) > LONGEST_FOLDER - 12  # of the name below it
    return "/tmp" if long and os.access("/tmp", os.W_OK) else folder


def execute_notebook(point: Point, folder: str) -> None:
    """Papermill the notebook of a point, unless its run is done; the kernel listens in `folder`."""
    import papermill
    from traitlets.config import Config

    if state(point) in DONE:  # by another sweep, or before the news reached the scheduler
        return
    log(point, "started")
    manager: dict[str, Any] = {"shutdown_wait_time": GRACE}  # it would kill the kernel after 5 s
    if os.name == "posix" and len(os.fsencode(folder)) <= LONGEST_FOLDER:
        # Of two kernels that start at once one could take the port that the other has chosen.
        manager |= {"transport": "ipc", "ip": f"{folder}/kernel"}
    config = Config({"KernelManager": manager})
    output = f"{point.parameters['run_dir']}/notebook.ipynb"
    papermill.execute_notebook(point.notebook, output, point.parameters, progress_bar=False, config=config)
    log(point, "ended")


def end_with_stdin(folder: str) -> None:
    """Wait for the end of stdin, then `end` this process."""
    os.read(0, 1)  # nothing is written after the first line
    end(folder)


def end(folder: str) -> None:
    """Ask the kernel below this process to end, which saves first, and wait until it has.

    The notebook then fails in the main thread, which ends this process. Without a kernel the main
    thread waits for one, or for another process's lock: this process ends at once then.
    """
    import psutil

    ENDING.set()
    asked: set[int] = set()
    deadline, without_kernel = time.monotonic() + GRACE, 0
    while time.monotonic() < deadline and without_kernel < 20:
        kernels = psutil.Process().children()
        without_kernel = 0 if kernels else without_kernel + 1
        for kernel in kernels:
            if kernel.pid not in asked:
                asked.add(kernel.pid)
                with suppress(psutil.Error):
                    kernel.terminate()
        time.sleep(0.25)
    family = psutil.Process().children(recursive=True)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, 5)  # the lock is ours until they are gone
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def log(point: Point, text: str) -> None:
    """A line in the run's sweep.log, with time and process."""
    with (point.run_dir / "sweep.log").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {os.getpid()} {text}\n")


def reason(error: Any) -> str:
    """Last line of the traceback of a PapermillExecutionError, and the line of the notebook that failed."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback)).strip().splitlines()
    arrows = [line.split(maxsplit=2)[2] for line in lines if re.match(r"-+> \d+ \S", line)]
    return f"{lines[-1]} (in the notebook's line: {arrows[0] if arrows else error.source.splitlines()[0]})"


def run_point(point: Point, gpus: Sequence[str] = ()) -> None:
    """On a Dask worker: execute a point in a process of its own. Raises RuntimeError with the reason if it failed."""
    from distributed import get_worker

    environment = {"OMP_NUM_THREADS": str(point.config.threads or 1), **os.environ}
    if gpus:  # workers of a local cluster are called 0, 1, ..., a restarted one as before
        environment["CUDA_VISIBLE_DEVICES"] = gpus[int(get_worker().name) % len(gpus)]
    command = [sys.executable, "-m", "asintrovae.sweep", "--point", point.name]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "bufsize": 0}
    # A session of its own: Ctrl-C reaches it through its stdin, after the scheduler knows that it is not to be retried.
    with subprocess.Popen(command, cwd=point.folder, env=environment, start_new_session=True, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        RUNNING[str(point.run_dir)] = process
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(point)).encode() + b"\n")
        said = process.stdout.read().decode(errors="replace").strip()  # ends when the kernel, too, is gone
    RUNNING.pop(str(point.run_dir), None)
    if process.returncode:
        raise RuntimeError(said.splitlines()[-1] if said else f"its process ended with status {process.returncode}")


def dask_setup(_: Any) -> None:
    """In each worker of a local cluster, by Dask's preload: Ctrl-C is the client's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_points(run_dirs: Sequence[str]) -> None:
    """On a Dask worker: ask the processes of these points to end, if they run here, and wait."""
    processes = [RUNNING[run_dir] for run_dir in run_dirs if run_dir in RUNNING]
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def run_points(client: Any, points: list[Point], gpus: Sequence[str], bar: Any) -> int:
    """Run points on the cluster, each that failed once more; reports and counts those that failed again."""
    from distributed import as_completed

    futures = client.map(run_point, points, gpus=gpus, pure=False, retries=1)
    names, failed = {future.key: point.name for future, point in zip(futures, points, strict=True)}, 0
    try:
        for future in as_completed(futures):
            if future.status != "finished":
                gone = future.status in ("cancelled", "lost")
                error = "the cluster is gone; the same command goes on" if gone else f"failed twice: {future.exception()}"
                bar.write(f"{names[future.key]}: {error}", file=sys.stderr)
                failed += 1
            future.release()  # a result that is held would be made again when the worker that has it dies
            bar.set_postfix(failed=failed, refresh=False)
            bar.update()
    except KeyboardInterrupt:
        client.cancel(futures)
        bar.write("the runs save first; another Ctrl-C does not wait for them", file=sys.stderr)
        client.run(end_points, [str(point.run_dir) for point in points], on_error="ignore")
        raise
    return failed


@contextmanager
def cluster_for(points: list[Point], scheduler: str | None, workers: int | None) -> Iterator[tuple[Any, list[str]]]:
    """A client, of the cluster at the address `scheduler` or of one on this machine, and the GPUs of its workers."""
    with extra():
        import dask
        from distributed import Client, LocalCluster
    if scheduler is not None:
        try:
            client = Client(scheduler)
        except (OSError, ValueError) as error:
            raise ParameterError(
                f"scheduler={scheduler!r} does not answer ({error}); start it, or leave --scheduler out"
            ) from None
        with client:
            yield client, []
        return
    for point in points:
        refuse_giant(point.config)
    cuda = any(point.config.torch_device().type == "cuda" for point in points)
    devices = max(point.config.devices for point in points)
    groups = gpu_groups(devices) if cuda else []
    count = min(len(points), workers or len(groups) or max(1, processors() // devices))
    # A worker that dies takes no blame for it: what it ran goes on elsewhere, up to the tenth time.
    with dask.config.set({"distributed.scheduler.allowed-failures": 10, "distributed.scheduler.worker-saturation": 1.0}):
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
    """CUDA_VISIBLE_DEVICES for each of as many workers as there are groups of `size` GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    if size > len(gpus):
        raise ParameterError(f"devices={size}: this machine has {len(gpus)} GPUs")
    return [",".join(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size)]


def run_together(points: list[Point]) -> None:
    """Train points as ensembles, in this process, each group announced with what it will cost; ParameterError for images."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault((shape_of(point.config), point.folder), []).append(point)
    for (_, folder), members in groups.items():
        os.chdir(folder)  # relative paths among the parameters count from there
        configs = [point.config for point in members]
        refuse_misfits(configs)
        print(f"{members[0].name} and {len(members) - 1} more: {cost(configs)}", flush=True)
        run_ensemble(configs)


def refuse_missing_data(grid: Path, points: list[Point]) -> None:
    """Raise ParameterError if images are missing that no point may download; none is decoded."""
    here, folders = Path.cwd(), {point.folder for point in points}
    wanted = {(config.dataset, config.data_dir) for config in (point.config for point in points) if not config.download}
    for folder, (dataset, data_dir) in itertools.product(sorted(folders), sorted(wanted, key=str)):
        if dataset in DATASETS["points"]:
            continue
        try:
            os.chdir(folder)  # relative paths count from there
            find_images(dataset, data_dir)
        except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
            raise ParameterError(f"{error}; or: asintrovae-sweep {grid} -p data_dir FOLDER") from None
        finally:
            os.chdir(here)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line.

    Returns 0, 1 if a point failed, 2 for a grid that is wrong, 130 after Ctrl-C or SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--point" in arguments[:1]:
        return execute_point()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grids", nargs="+", type=Path, metavar="grid", help="YAML file: notebook, run_dir, fixed, axes, seeds")
    parser.add_argument("--dry-run", action="store_true", help="list every point with its state")
    parser.add_argument("--table", action="store_true", help="write the table of what is finished, run nothing")
    parser.add_argument(
        "--ensemble", action="store_true", help="train points (2-D data only) together, in as few programs as fit"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="points whose name contains TEXT")
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of every point, in place of what the grid fixes; repeatable",
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="in place of the run_dir of the grid, if it is one")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time; by default one per core, or per GPU")
    parser.add_argument(
        "--scheduler",
        metavar="URL",
        help="tcp://... of a running Dask cluster, whose workers have this package and these folders",
    )
    options = parser.parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # how a batch system says Ctrl-C
    try:
        if options.run_dir is not None and len(options.grids) > 1:
            raise ParameterError(f"run_dir={str(options.run_dir)!r} would be that of {len(options.grids)} grids; give one grid")
        options.given = given_parameters(options.parameter)
        return max([sweep(grid, options) for grid in options.grids])
    except ParameterError as error:
        print(f"asintrovae-sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("asintrovae-sweep: interrupted; the same command goes on where this one was", file=sys.stderr)
        return 130


def sweep(grid: Path, options: argparse.Namespace) -> int:
    """What the options ask for of one grid; the exit status. Raises ParameterError."""
    run_dir, everything = read_grid(grid, options.run_dir, options.given)
    states = {point.name: state(point) for point in everything}  # of all: no run is to be taken for another's
    points = [point for point in everything if options.only in point.name]
    if options.workers is not None and options.workers < 1:
        raise ParameterError(f"workers={options.workers} must be 1 or more; leave it out for one per core, or per GPU")
    if not points:
        raise ParameterError(f"only={options.only!r}: no point has this in its name; --dry-run lists the names")
    todo = [point for point in points if states[point.name] not in DONE]
    if options.dry_run:
        for point in points:
            print(f"{point.name}  {states[point.name]}")
        counts = Counter(states[point.name].split()[0] for point in points)
        print(f"{len(points)} points:", ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    if not options.table and options.scheduler is None:  # a cluster may have its data elsewhere
        refuse_missing_data(grid, todo)
    if options.dry_run:
        return 0
    failed = 0
    if todo and options.ensemble and not options.table:
        run_together(todo)
    elif todo and not options.table:
        done = len(points) - len(todo)
        with (
            cluster_for(todo, options.scheduler, options.workers) as (client, gpus),
            tqdm(total=len(points), initial=done, desc="points", postfix={"failed": 0}) as bar,
        ):
            failed = run_points(client, todo, gpus, bar)
    print(write_table(run_dir, everything))
    return 1 if failed else 0


if __name__ == "__main__":
    from asintrovae.sweep import main as of_the_module  # what Dask sends to workers is named by its module

    sys.exit(of_the_module())
