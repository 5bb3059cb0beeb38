"""Grids of papermill runs on Dask: asintrovae-sweep GRID.yaml.

Interrupted in any way, the same command goes on.
"""

import argparse
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from asintrovae.config import DATASETS, ParameterError, short
from asintrovae.data.sources import find_images
from asintrovae.sweeps.cluster import cluster_for, run_points
from asintrovae.sweeps.ensemble import run_together
from asintrovae.sweeps.grid import Point, given_parameters, read_grid
from asintrovae.sweeps.point import execute_point
from asintrovae.sweeps.status import DONE, status_of
from asintrovae.sweeps.table import write_table


def check_missing_data(grid: Path, points: list[Point]) -> None:
    """Raise ParameterError if images are missing that no point may download; none is decoded."""
    here, folders = Path.cwd(), {point.folder for point in points}
    configs = [point.config for point in points]
    wanted = {(config.dataset, config.data_dir) for config in configs if not config.download}
    for folder, (dataset, data_dir) in itertools.product(sorted(folders), sorted(wanted, key=str)):
        if dataset in DATASETS["points"]:
            continue
        try:
            os.chdir(folder)  # relative paths count from there
            find_images(dataset, data_dir)
        except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
            command = f"asintrovae-sweep {grid} -p data_dir FOLDER"
            raise ParameterError(f"{error}; or: {command}") from None
        finally:
            os.chdir(here)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=" ".join(str(__doc__).split()))
    option = found.add_argument
    keys = "YAML file: notebook, run_dir, fixed, axes, seeds"
    option("grids", nargs="+", type=Path, metavar="grid", help=keys)
    option("--dry-run", action="store_true", help="list every point with its state")
    alone = "write the table of what is finished, run nothing"
    option("--table", action="store_true", help=alone)
    together = "train points (2-D data only) together, in as few programs as fit"
    option("--ensemble", action="store_true", help=together)
    option("--only", default="", metavar="TEXT", help="points whose name contains TEXT")
    option(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of every point, in place of what the grid fixes; repeatable",
    )
    elsewhere = "in place of the run_dir of the grid, if it is one"
    option("--run-dir", type=Path, metavar="DIR", help=elsewhere)
    at_a_time = "runs at a time; by default one per core, or per GPU"
    option("--workers", type=int, metavar="N", help=at_a_time)
    cluster = (
        "tcp://... of a running Dask cluster, whose workers have this package and these folders"
    )
    option("--scheduler", metavar="URL", help=cluster)
    limit = "stop after so many seconds, as on SIGTERM: the runs save, the same command goes on"
    option("--budget", metavar="SECONDS", help=limit)
    return found


@dataclass
class Grid:
    """A grid of the command line.

    Attributes:
        path: of its file.
        run_dir: folder of all its runs.
        everything: all its points.
        points: those that the options choose.
        states: name -> status of each point.
    """

    path: Path
    run_dir: Path
    everything: list[Point]
    points: list[Point]
    states: dict[str, str]

    @property
    def todo(self) -> list[Point]:
        """The chosen points that are not done."""
        return [point for point in self.points if self.states[point.name] not in DONE]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line asintrovae-sweep.

    Args:
        arguments: those of the process if left out.

    Returns:
        The exit status: 0, 1 if a point failed, 2 for a grid that is wrong, 130 after Ctrl-C,
        SIGTERM or the end of the budget.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--point" in arguments[:1]:
        return execute_point()
    options = parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # how a batch system says Ctrl-C
    budget, grids = None, []
    try:
        budget = Budget(options.budget)
        if options.run_dir is not None and len(options.grids) > 1:
            shared = f"would be that of {len(options.grids)} grids; give one grid"
            raise ParameterError(f"run_dir={str(options.run_dir)!r} {shared}")
        options.given = given_parameters(options.parameter)
        grids = [chosen(path, options) for path in options.grids]
        return sweep(grids, options, budget)
    except ParameterError as error:
        print(f"asintrovae-sweep: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit, TimeoutError) as stop:
        over = budget is not None and budget.over
        # An ensemble says itself where it is; Dask may not wait for workers that end slowly.
        if not isinstance(stop, KeyboardInterrupt) and not over:
            raise
        what = spent(grids, options.budget) if over else "interrupted"
        way_on = f"{what}; the same command goes on where this one was"
        print(f"asintrovae-sweep: {way_on}", file=sys.stderr)
        return 130


class Budget:
    """The time that a sweep may take, counted from here.

    Attributes:
        over: whether the time has ended a sweep.
    """

    def __init__(self, seconds: str | None) -> None:
        """Start to count.

        Args:
            seconds: as text; None is no limit.

        Raises:
            ParameterError: for anything but a number above 0.
        """
        self.over = False
        try:
            limit = math.inf if seconds is None else float(seconds)
        except ValueError:
            limit = math.nan
        if not limit > 0:
            needs = "must be a number of seconds above 0, such as 600, or left out"
            raise ParameterError(f"budget={short(seconds)} {needs}")
        self.end = time.monotonic() + limit

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Send this thread SIGTERM if the body still runs when the time is over."""
        here = threading.get_ident()

        def stop() -> None:
            self.over = True
            signal.pthread_kill(here, signal.SIGTERM)

        left = max(0.0, self.end - time.monotonic())
        timer = threading.Timer(min(left, threading.TIMEOUT_MAX), stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def spent(grids: list[Grid], budget: str) -> str:
    """Return what the points of a sweep have come to when its time is over."""
    states = [status_of(point).split()[0] for grid in grids for point in grid.points]
    finished = sum(state in DONE for state in states)
    saved = states.count("interrupted")
    counts = f"{finished} of {len(states)} runs finished, {saved} saved on the way"
    return f"the {budget} seconds of the budget are over: {counts}"


def chosen(path: Path, options: argparse.Namespace) -> Grid:
    """Return a grid with the points that the options choose.

    Raises:
        ParameterError: for a wrong grid or option.
    """
    run_dir, everything = read_grid(path, options.run_dir, options.given)
    # Of all points, chosen or not: no run is to be taken for another's.
    states = {point.name: status_of(point) for point in everything}
    points = [point for point in everything if options.only in point.name]
    if options.workers is not None and options.workers < 1:
        way_out = "leave it out for one per core, or per GPU"
        raise ParameterError(f"workers={options.workers} must be 1 or more; {way_out}")
    if not points:
        none = "no point has this in its name; --dry-run lists the names"
        raise ParameterError(f"only={options.only!r}: {none}")
    return Grid(path, run_dir, everything, points, states)


def sweep(grids: list[Grid], options: argparse.Namespace, budget: Budget) -> int:
    """Do what the options ask for and return the exit status.

    The points of all grids are run in the order given, as many at a time as there are workers.

    Raises:
        ParameterError: for images that are missing, and for points that do not fit together.
    """
    for grid in grids:
        if options.dry_run:
            show(grid)
        if not options.table and options.scheduler is None:  # a cluster may have its data elsewhere
            check_missing_data(grid.path, grid.todo)
    if options.dry_run:
        return 0
    failed, todo = 0, [point for grid in grids for point in grid.todo]
    if todo and options.ensemble and not options.table:
        with budget.ending():
            run_together(todo)
    elif todo and not options.table:
        total = sum(len(grid.points) for grid in grids)
        done = total - len(todo)
        with (
            cluster_for(todo, options.scheduler, options.workers) as (client, gpus),
            tqdm(total=total, initial=done, desc="points", postfix={"failed": 0}) as bar,
            budget.ending(),
        ):
            failed = run_points(client, todo, gpus, bar)
    for grid in grids:
        print(write_table(grid.run_dir, grid.everything))
    return 1 if failed else 0


def show(grid: Grid) -> None:
    """Print the state of every chosen point, and how many have which."""
    states = [grid.states[point.name] for point in grid.points]
    for point, state in zip(grid.points, states, strict=True):
        print(f"{point.name}  {state}")
    counts = Counter(state.split()[0] for state in states)
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{len(states)} points: {summary}")
