"""A grid of papermill runs on Dask: asintrovae-sweep GRID.yaml. Interrupted in any way, the same command goes on."""

import argparse
import ast
import difflib
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from asintrovae.checkpoint import load_checkpoint
from asintrovae.config import ParameterError, RunConfig
from asintrovae.data.decode import cores
from asintrovae.data.files import write_atomically
from asintrovae.training import FREE_PARAMETERS

KEYS = ("notebook", "run_dir", "fixed", "axes", "seeds")
COLUMNS = ("seed", "status", "diverged_iteration", "diverged_term", "seconds", "code", "torch", "device")
DONE = ("finished", "diverged")
EVALUATED = {"evaluation_samples", "feature_network"}  # free while a run trains, but a record's metrics depend on them
RUNNING: dict[str, "subprocess.Popen[bytes]"] = {}
"""In a Dask worker: the process of each point it runs, by run_dir."""


@contextmanager
def extra() -> Iterator[None]:
    """Around the imports that only a sweep needs."""
    try:
        yield
    except ImportError as error:
        raise ParameterError(f'{error}; a sweep needs more than training does: pip install "asintrovae[sweep]"') from None


@dataclass(frozen=True)
class Point:
    """One run of a grid. labels: axis -> label. Paths, and relative ones among the parameters, count from `folder`.

    parameters: what papermill sets, seed and run_dir included. defaults: of the notebook, for all the others.
    """

    labels: dict[str, str]
    seed: int
    folder: str
    notebook: str
    parameters: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def name(self) -> str:
        """The labels and the seed, as the run's folder below that of the grid."""
        return "/".join([*self.labels.values(), str(self.seed)])

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        return Path(self.folder, self.parameters["run_dir"])

    @cached_property
    def config(self) -> RunConfig:
        """All parameters of the run. Raises ParameterError as RunConfig does."""
        return RunConfig(**{**self.defaults, **self.parameters})


def read_grid(path: Path, run_dir: Path | None = None) -> tuple[Path, list[Point]]:
    """The folder of all runs of a YAML file, and its points, checked, in order: the last axis and the seed fastest.

    run_dir: in place of the file's. Raises ParameterError, one line with the file, what is wrong in it and the way out.
    """
    try:
        content, folder = load_yaml(path), path.resolve().parent
        base = str(content["run_dir"]) if run_dir is None else str(run_dir.resolve())
        notebook = str(content["notebook"])
        return folder / base, expand(content, str(folder), notebook, base, notebook_defaults(folder / notebook))
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, by the safe loader, with the keys of a grid and no others."""
    with extra():
        import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML's last of two equal keys would win in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: list[Any] = []
            for key, _ in node.value:
                if key.value in keys:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} twice; rename one", problem_mark=key.start_mark)
                keys.append(key.value)
            return super().construct_mapping(node, deep)

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"cannot be read: {' '.join(str(error).split())}") from None
    content = mapping("the file", content)
    known("key", content, KEYS)
    for key in ("notebook", "run_dir", "seeds"):
        if not content.get(key):
            raise ParameterError(f"key {key!r} is missing or empty; a grid needs notebook, run_dir and seeds")
    return content


def mapping(what: str, value: Any) -> dict[str, Any]:
    """The value, if it is a mapping with text for keys."""
    if not isinstance(value, dict):
        raise ParameterError(f"{what} must be a mapping, name: value, got {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise ParameterError(f"{what}: {key!r} must be text; put it in quotes")
    return value


def known(what: str, names: Iterable[str], valid: Iterable[str]) -> None:
    """Raise ParameterError with the nearest valid name if one is not among them."""
    valid = list(valid)
    for name in names:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)
            raise ParameterError(f"unknown {what} {name!r}; did you mean {near[0]!r}?")


def notebook_defaults(notebook: Path) -> dict[str, Any]:
    """Parameters of a training notebook with their defaults."""
    with extra():
        from papermill import inspect_notebook
    if not notebook.is_file():
        raise ParameterError(f"notebook: no file {str(notebook)!r}; its path counts from the grid's folder")
    try:
        return {name: ast.literal_eval(found["default"]) for name, found in inspect_notebook(str(notebook)).items()}
    except (ValueError, SyntaxError) as error:
        raise ParameterError(f"notebook: the parameters of {str(notebook)!r} cannot be read ({error})") from None


def expand(content: Mapping[str, Any], folder: str, notebook: str, base: str, defaults: dict[str, Any]) -> list[Point]:
    """All points of a grid, in order. Raises ParameterError for the first thing that does not fit."""
    fixed = parameters_of("fixed", content.get("fixed") or {})
    axes = {axis: labels_of(axis, values) for axis, values in mapping("axes", content.get("axes") or {}).items()}
    refuse_twice({"fixed": set(fixed)} | {f"axis {axis!r}": set().union(*found.values()) for axis, found in axes.items()})
    threads = {} if defaults.get("threads") else {"threads": 1}  # as many workers as cores: more would wait for each other
    points = []
    for labels, seed in itertools.product(itertools.product(*axes.values()), checked_seeds(content["seeds"])):
        chosen = dict(zip(axes, labels, strict=True))
        parameters = {**threads, **fixed, "seed": seed, "run_dir": "/".join([base, *labels, str(seed)])}
        for axis, label in chosen.items():
            parameters |= axes[axis][label]
        point = Point(chosen, seed, folder, notebook, parameters, defaults)
        try:
            point.config  # noqa: B018 (it is checked when it is made)
        except ParameterError as error:
            where = ", ".join(f"axis {axis!r} at {label!r}" for axis, label in chosen.items())
            raise ParameterError(f"{where}: {error}") from None
        points.append(point)
    return points


def labels_of(axis: str, values: Any) -> dict[str, dict[str, Any]]:
    """label -> parameters of one axis; a list of values is labelled by itself."""
    what = f"axis {axis!r}"
    if axis in COLUMNS:
        raise ParameterError(f"{what}: the table has a column of that name; rename the axis")
    if not values:
        raise ParameterError(f"{what} is empty; give it labels with parameters, or a list of values")
    if isinstance(values, list):
        known(f"parameter of a list, {what},", [axis], RunConfig.model_fields)
        texts = ["-".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]
        pairs = [(f"{axis}={text}", {axis: value}) for text, value in zip(texts, values, strict=True)]
    else:
        pairs = list(mapping(what, values).items())
    labels: dict[str, dict[str, Any]] = {}
    for label, parameters in pairs:
        if not re.fullmatch(r"[\w=+-][\w=+.,-]{0,99}", label):
            raise ParameterError(f"{what}: label {label!r} names no plain folder; use letters, digits and - _ = + . ,")
        if label.casefold() in map(str.casefold, labels):
            raise ParameterError(f"{what}: label {label!r} stands there twice, and both would share a folder; rename one")
        labels[label] = parameters_of(f"{what}, label {label!r}", parameters)
    return labels


def parameters_of(what: str, parameters: Any) -> dict[str, Any]:
    """The parameters that one place of a grid sets, if they exist and are its to set."""
    for name in mapping(what, parameters):
        if name in ("seed", "run_dir"):
            raise ParameterError(f"{what} sets {name!r}, which every point has its own of; leave it out")
    known(f"parameter of {what},", parameters, RunConfig.model_fields)
    return dict(parameters)


def refuse_twice(places: dict[str, set[str]]) -> None:
    """Raise ParameterError if two places of a grid set one parameter."""
    owners: dict[str, str] = {}
    for place, names in places.items():
        for name in sorted(names):
            if name in owners:
                raise ParameterError(f"{place} sets {name!r}, which {owners[name]} sets as well; leave it to one of them")
            owners[name] = place


def checked_seeds(seeds: Any) -> list[int]:
    """The seeds, if they are different whole numbers from 0 on."""
    if not isinstance(seeds, list) or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ParameterError(f"seeds={seeds!r} must be a list of different whole numbers from 0 on, such as [0, 1, 2]")
    return seeds


def state(point: Point) -> str:
    """finished, diverged, waiting, or interrupted at iteration k of n, as the folder of the point says.

    Raises ParameterError, with the differences, if that folder holds a run with other parameters.
    """
    path = point.run_dir / "record.json"
    if path.exists():
        record = json.loads(path.read_text())
        refuse_others(point, record["config"], FREE_PARAMETERS - EVALUATED)
        return str(record["status"])
    if (checkpoint := load_checkpoint(point.run_dir)) is None:
        return "waiting"
    refuse_others(point, checkpoint.meta["config"], FREE_PARAMETERS)
    return f"interrupted at iteration {checkpoint.meta['iteration']} of {point.config.iterations}"


def refuse_others(point: Point, there: Mapping[str, Any], free: set[str]) -> None:
    """Raise ParameterError, with the differences, if the run in the point's folder has other parameters."""
    here = point.config.model_dump(mode="json")
    names = [name for name in here if name not in free and there.get(name) != here[name]]
    if names:
        found = ", ".join(f"{name} {there.get(name)!r} there, {here[name]!r} here" for name in names)
        raise ParameterError(
            f"{point.name}: '{point.run_dir}' holds another run ({found}); remove it, or choose another --run-dir"
        )


def execute_point() -> int:
    """In a process of its own: execute the point that the first line of stdin describes; 1, and the reason, if it failed.

    Ends with its kernel when stdin does: whoever holds its other end, the Dask worker, is then gone or wants an end.
    """
    with extra():
        import psutil  # noqa: F401 (for end_with_stdin, whose thread nobody hears)
        from filelock import FileLock
        from papermill import PapermillExecutionError
    point = Point(**json.loads(sys.stdin.readline()))
    point.run_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=end_with_stdin, args=[folder], daemon=True).start()
        with FileLock(point.run_dir / ".lock"):  # nothing runs twice at once, whoever asks for it
            try:
                execute_notebook(point, folder)
            except PapermillExecutionError as error:
                log(point, "failed")
                print(reason(error))
                return 1
    return 0


def execute_notebook(point: Point, folder: str) -> None:
    """Papermill the notebook of a point, unless its run is done; the kernel listens in `folder`."""
    import papermill
    from traitlets.config import Config

    if state(point) in DONE:  # by another sweep, or before the news reached the scheduler
        return
    log(point, "started")
    # Of kernels that start at once one could take the other's port before it listens there; files are their own.
    sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}} if os.name == "posix" else {})
    output = f"{point.parameters['run_dir']}/notebook.ipynb"
    papermill.execute_notebook(point.notebook, output, point.parameters, progress_bar=False, config=sockets)
    log(point, "ended")


def end_with_stdin(folder: str) -> None:
    """Wait for the end of stdin, then end all processes below this one and this one."""
    import psutil

    os.read(0, 1)  # nothing is written after the first line
    family = psutil.Process().children(recursive=True)
    for child in family:
        with suppress(psutil.Error):
            child.kill()
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

    environment = dict(os.environ)
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
    """On a Dask worker: end the processes of these points, if they run here."""
    for run_dir in run_dirs:
        if (process := RUNNING.get(run_dir)) is not None and process.stdin is not None:
            process.stdin.close()


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
    cuda = any(point.config.torch_device().type == "cuda" for point in points)
    devices = max(point.config.devices for point in points)
    groups = gpu_groups(devices) if cuda else []
    count = min(len(points), workers or len(groups) or max(1, cores() // devices))
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


def write_table(run_dir: Path, points: list[Point]) -> str:
    """Write table.csv and table.parquet, a row per finished or diverged point; returns what was written, in words."""
    with extra():
        import pandas
    rows = [row(point) for point in points if state(point) in DONE]
    frame = pandas.DataFrame(rows)
    if rows:
        frame = frame.astype({"diverged_iteration": "Int64"})  # with gaps it would become a float
        write_atomically(run_dir / "table.csv", frame.to_csv(index=False).encode())
        write_atomically(run_dir / "table.parquet", frame.to_parquet(index=False))
    return f"{run_dir / 'table.csv'} and .parquet: {len(rows)} rows" if rows else "no table: no point is finished"


def row(point: Point) -> dict[str, Any]:
    """A recorded point as a row of the table."""
    record = json.loads((point.run_dir / "record.json").read_text())
    diverged = record["diverged"] or {"iteration": None, "term": None}
    values = point.seed, record["status"], diverged["iteration"], diverged["term"]
    origin = record["seconds"], record["code"], record["versions"]["torch"], record["device"]
    return {**point.labels, **dict(zip(COLUMNS, values + origin, strict=True)), **record["metrics"], **point.labels}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns 0, 1 if a point failed, 2 for a grid that is wrong, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--point" in arguments[:1]:
        return execute_point()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("grid", type=Path, help="YAML file: notebook, run_dir, fixed, axes, seeds")
    parser.add_argument("--dry-run", action="store_true", help="list every point with its state")
    parser.add_argument("--table", action="store_true", help="write the table of what is finished, run nothing")
    parser.add_argument("--only", default="", metavar="TEXT", help="points whose name contains TEXT")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="in place of the grid's run_dir")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time; by default one per core, or per GPU")
    parser.add_argument(
        "--scheduler",
        metavar="URL",
        help="tcp://... of a running Dask cluster, whose workers have this package and these folders",
    )
    options = parser.parse_args(arguments)
    try:
        return sweep(options)
    except ParameterError as error:
        print(f"asintrovae-sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("asintrovae-sweep: interrupted; the same command goes on where this one was", file=sys.stderr)
        return 130


def sweep(options: argparse.Namespace) -> int:
    """What the options ask for; the exit status. Raises ParameterError."""
    run_dir, everything = read_grid(options.grid, options.run_dir)
    states = {point.name: state(point) for point in everything}  # of all: no run is to be taken for another's
    points = [point for point in everything if options.only in point.name]
    if options.workers is not None and options.workers < 1:
        raise ParameterError(f"workers={options.workers} must be 1 or more; leave it out for one per core, or per GPU")
    if not points:
        raise ParameterError(f"only={options.only!r}: no point has this in its name; --dry-run lists the names")
    if options.dry_run:
        for point in points:
            print(f"{point.name}  {states[point.name]}")
        counts = Counter(states[point.name].split()[0] for point in points)
        print(f"{len(points)} points:", ", ".join(f"{count} {kind}" for kind, count in counts.items()))
        return 0
    failed, todo = 0, [point for point in points if states[point.name] not in DONE]
    if todo and not options.table:
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
