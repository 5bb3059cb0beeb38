"""The status of every point of a grid: what a sweep skips, resumes or starts."""

from collections.abc import Mapping
from typing import Any

from asintrovae.config import ParameterError, differences, with_defaults
from asintrovae.running.checkpoint import load_checkpoint
from asintrovae.running.provenance import FREE_PARAMETERS
from asintrovae.running.records import damage, read_record
from asintrovae.sweeps.grid import Point

DONE = ("finished", "diverged")
"""Status of points that a sweep skips."""
EVALUATED = {"evaluation_samples", "feature_network", "fid_precision"}
"""Free while a run trains, but a record's metrics depend on them."""


def status_of(point: Point) -> str:
    """Return what the folder of a point says of its run.

    Args:
        point: of a grid.

    Returns:
        finished, diverged, waiting, interrupted at iteration k of n, or damaged, with the file and
        the reason: the run of a damaged record is to be run again from its checkpoint, that of
        damaged checkpoints fails.

    Raises:
        ParameterError: with the differences, if the folder holds a run with other parameters.
    """
    path = point.run_dir / "record.json"
    damaged = damage(path) if path.exists() else ""
    if path.exists() and not damaged:
        record = read_record(path)
        check_others(point, record["config"], FREE_PARAMETERS - EVALUATED)
        return str(record["status"])
    try:
        checkpoint = load_checkpoint(point.run_dir)
    except ParameterError as error:
        return f"damaged ({error})"
    if checkpoint is not None:
        check_others(point, checkpoint.meta["config"], FREE_PARAMETERS)
    if damaged:
        return f"damaged ({damaged})"
    if checkpoint is None:
        return "waiting"
    return f"interrupted at iteration {checkpoint.meta['iteration']} of {point.config.iterations}"


def check_others(point: Point, there: Mapping[str, Any], free: set[str]) -> None:
    """Raise ParameterError if the run in the point's folder differs in parameters not in `free`."""
    if found := differences(with_defaults(there), point.config.model_dump(mode="json"), free):
        other = f"'{point.run_dir}' holds another run ({found})"
        raise ParameterError(f"{point.name}: {other}; remove it, or choose another --run-dir")
