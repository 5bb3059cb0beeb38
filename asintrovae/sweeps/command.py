"""Grids of papermill runs on Dask: asintrovae-sweep GRID.yaml. Interrupted in any way, the same command goes on."""

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
from asintrovae.sweeps.table import DONE, status_of, write_table


def check_missing_data(grid: Path, points: list[Point]) -> None:
    """Raise ParameterError if images are missing that no point may download; none is decoded."""
    here, folders = Path.cwd(), {point.folder for point in points}
    wanted = {
        (config.dataset, config.data_dir)
        for config in (point.config for point in points)
        if not config.download
    }
    for folder, (dataset, data_dir) in itertools.product(sorted(folders), sorted(wanted, key=str)):
        if dataset in DATASETS["points"]:
            continue
        try:
            os.chdir(folder)  # relative paths count from there
            find_images(dataset, data_dir)
        except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
            raise ParameterError(
                f"{error}; or: asintrovae-sweep {grid} -p data_dir FOLDER"
            ) from None
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
    parser.add_argument(
        "grids",
        nargs="+",
        type=Path,
        metavar="grid",
        help="YAML file: notebook, run_dir, fixed, axes, seeds",
    )
    parser.add_argument("--dry-run", action="store_true", help="list every point with its state")
    parser.add_argument(
        "--table", action="store_true", help="write the table of what is finished, run nothing"
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="train points (2-D data only) together, in as few programs as fit",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="points whose name contains TEXT"
    )
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of every point, in place of what the grid fixes; repeatable",
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="in place of the run_dir of the grid, if it is one",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="runs at a time; by default one per core, or per GPU",
    )
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
            raise ParameterError(
                f"run_dir={str(options.run_dir)!r} would be that of {len(options.grids)} grids; give one grid"
            )
        options.given = given_parameters(options.parameter)
        return max([sweep(grid, options) for grid in options.grids])
    except ParameterError as error:
        print(f"asintrovae-sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "asintrovae-sweep: interrupted; the same command goes on where this one was",
            file=sys.stderr,
        )
        return 130


def sweep(grid: Path, options: argparse.Namespace) -> int:
    """What the options ask for of one grid; the exit status. Raises ParameterError."""
    run_dir, everything = read_grid(grid, options.run_dir, options.given)
    states = {
        point.name: status_of(point) for point in everything
    }  # of all: no run is to be taken for another's
    points = [point for point in everything if options.only in point.name]
    if options.workers is not None and options.workers < 1:
        raise ParameterError(
            f"workers={options.workers} must be 1 or more; leave it out for one per core, or per GPU"
        )
    if not points:
        raise ParameterError(
            f"only={options.only!r}: no point has this in its name; --dry-run lists the names"
        )
    todo = [point for point in points if states[point.name] not in DONE]
    if options.dry_run:
        for point in points:
            print(f"{point.name}  {states[point.name]}")
        counts = Counter(states[point.name].split()[0] for point in points)
        print(
            f"{len(points)} points:", ", ".join(f"{count} {kind}" for kind, count in counts.items())
        )
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
