"""Grids of papermill runs on Dask: asintrovae-sweep GRID.yaml.

Interrupted in any way, the same command goes on.
"""

import argparse
import itertools
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from asintrovae.config import DATASETS, ParameterError
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
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line asintrovae-sweep.

    Args:
        arguments: those of the process if left out.

    Returns:
        The exit status: 0, 1 if a point failed, 2 for a grid that is wrong, 130 after Ctrl-C or
        SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--point" in arguments[:1]:
        return execute_point()
    options = parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # how a batch system says Ctrl-C
    try:
        if options.run_dir is not None and len(options.grids) > 1:
            shared = f"would be that of {len(options.grids)} grids; give one grid"
            raise ParameterError(f"run_dir={str(options.run_dir)!r} {shared}")
        options.given = given_parameters(options.parameter)
        return max([sweep(grid, options) for grid in options.grids])
    except ParameterError as error:
        print(f"asintrovae-sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        way_on = "interrupted; the same command goes on where this one was"
        print(f"asintrovae-sweep: {way_on}", file=sys.stderr)
        return 130


def sweep(grid: Path, options: argparse.Namespace) -> int:
    """Do what the options ask for of one grid and return the exit status.

    Raises:
        ParameterError: for a wrong grid or option.
    """
    run_dir, everything = read_grid(grid, options.run_dir, options.given)
    # Of all points, chosen or not: no run is to be taken for another's.
    states = {point.name: status_of(point) for point in everything}
    points = [point for point in everything if options.only in point.name]
    if options.workers is not None and options.workers < 1:
        way_out = "leave it out for one per core, or per GPU"
        raise ParameterError(f"workers={options.workers} must be 1 or more; {way_out}")
    if not points:
        none = "no point has this in its name; --dry-run lists the names"
        raise ParameterError(f"only={options.only!r}: {none}")
    todo = [point for point in points if states[point.name] not in DONE]
    if options.dry_run:
        for point in points:
            print(f"{point.name}  {states[point.name]}")
        counts = Counter(states[point.name].split()[0] for point in points)
        summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        print(f"{len(points)} points: {summary}")
    if not options.table and options.scheduler is None:  # a cluster may have its data elsewhere
        check_missing_data(grid, todo)
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
