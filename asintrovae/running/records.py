"""A finished run as data: record.json, what was done, and history.csv, its curves."""

import csv
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from asintrovae.build import build_model, threads_for
from asintrovae.config import ParameterError, RunConfig, expand_home, with_defaults
from asintrovae.data import example_shape
from asintrovae.devices import arithmetic
from asintrovae.files import naming, write_atomically
from asintrovae.running.checkpoint import load_checkpoint, restore_evaluated
from asintrovae.running.provenance import code_hash, versions
from asintrovae.running.result import TrainingResult
from asintrovae.theory.networks import GAN, Autoencoder


@dataclass(frozen=True)
class Run:
    """A recorded run.

    Attributes:
        config: its parameters.
        record: what record.json holds.
        history: one row of term -> value for each logged iteration.
        model: as it was evaluated, at its last good checkpoint, None where the record travels
            without one.
    """

    config: RunConfig
    record: dict[str, Any]
    history: list[dict[str, float]]
    model: Autoencoder | GAN | None


def save_record(
    config: RunConfig, result: TrainingResult, metrics: dict[str, Any], skipped_images: int = 0
) -> dict[str, Any]:
    """Write history.csv and record.json to config.run_dir.

    A damaged record is kept as record.damaged.json.

    Args:
        config: parameters of the run.
        result: from `train`.
        metrics: from `evaluate`. One that is not finite becomes None; the record's "not_measured"
            holds name -> reason of all that are None.
        skipped_images: files of the data set that could not be read, as ImageData counts them.

    Returns:
        The record.
    """
    device, metrics = config.torch_device(), dict(metrics)
    not_measured = metrics.pop("not_measured", {})
    known = {name: value for name, value in metrics.items() if value is not None}
    not_finite = {name: f"is {value}" for name, value in known.items() if not math.isfinite(value)}
    record = {
        "status": "finished" if result.divergence is None else "diverged",
        "diverged": None if result.divergence is None else asdict(result.divergence),
        "metrics": metrics | dict.fromkeys(not_finite),
        "not_measured": not_measured | not_finite,
        "seconds": round(result.seconds, 1),
        "trained_together": result.members,
        "skipped_images": skipped_images,
        "config": config.model_dump(mode="json"),
        "device": name_of(device),
        "arithmetic": arithmetic(device, config.precision),
        "threads": threads_for(config),
        "versions": versions(),
        "code": code_hash(),
    }
    run_dir = Path(config.run_dir)
    write_history(run_dir / "history.csv", result.history)
    path = run_dir / "record.json"
    kept = path.with_name("record.damaged.json") if path.exists() and damage(path) else None
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_atomically(path, text.encode(), previous=kept)
    return record


def name_of(device: torch.device) -> str:
    """Return the name of a GPU, of another device its type and the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"


RECORDED_SAMPLES = 2000
"""How many generated points `save_samples` keeps."""


def save_samples(config: RunConfig, points: Tensor) -> None:
    """Write generated points to run_dir/samples.npy.

    Args:
        config: gives run_dir.
        points: (N, 2), of which the first RECORDED_SAMPLES are kept, in float16 (three digits).
    """
    content = io.BytesIO()
    kept = points[:RECORDED_SAMPLES].cpu().numpy().astype(numpy.float16)
    numpy.save(content, kept, allow_pickle=False)
    write_atomically(Path(config.run_dir) / "samples.npy", content.getvalue())


def load_samples(run_dir: str | Path) -> Tensor:
    """Return what save_samples wrote, (N, 2), in float32.

    Args:
        run_dir: the folder of the run; `~` is the home folder.

    Raises:
        FileNotFoundError: where there are none.
        ParameterError: for a damaged file.
    """
    path = Path(expand_home("run_dir", run_dir)) / "samples.npy"
    if not path.exists():
        way_out = "name the folder of a run of points, which keeps its samples"
        raise FileNotFoundError(f"run_dir='{run_dir}' holds no samples.npy; {way_out}")
    with naming(path):
        return torch.from_numpy(numpy.load(path, allow_pickle=False).astype(numpy.float32))


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in a file; raise ParameterError, naming the file, where it is damaged."""
    with naming(path):
        record: dict[str, Any] = json.loads(path.read_bytes())
        if missing := {"status", "metrics", "config"} - set(record):
            raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
        return record


def damage(path: Path) -> str:
    """Return what is wrong with a record in one line, nothing where it can be read."""
    try:
        read_record(path)
    except ParameterError as error:
        return str(error)
    return ""


def load_run(run_dir: str | Path) -> Run:
    """Return a run from its folder.

    Args:
        run_dir: the folder; `~` is the home folder.

    Returns:
        The run, its model on the CPU.

    Raises:
        FileNotFoundError: naming the folder, where it holds no finished run.
        ParameterError: naming the file, where one is damaged.
    """
    run_dir = Path(expand_home("run_dir", run_dir))
    if not (run_dir / "record.json").exists():
        way_out = "train first, or give the folder of a finished run"
        raise FileNotFoundError(f"run_dir='{run_dir}' holds no record.json; {way_out}")
    record = read_record(run_dir / "record.json")
    with naming(run_dir / "record.json"):
        config = RunConfig(**with_defaults(record["config"]))
    history = read_history(run_dir / "history.csv")
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        return Run(config, record, history, None)
    # readable on a machine without the device it was trained on
    here = config.model_copy(update={"device": "cpu"})
    model = build_model(here, example_shape(here))
    restore_evaluated(checkpoint, model)
    return Run(config, record, history, model)


def load_records(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Return the records of all runs below a folder, without histories and weights.

    Args:
        folder: `~` is the home folder.

    Returns:
        Path from the folder -> record, sorted by the path.

    Raises:
        FileNotFoundError: naming the folder, where it holds none.
        ParameterError: naming the file, for a damaged one.
    """
    folder = Path(expand_home("folder", folder))
    paths = sorted(folder.rglob("record.json"), key=lambda path: path.parts)
    if not paths:
        way_out = "run the sweep that fills it, or name another"
        raise FileNotFoundError(f"folder='{folder}' holds no record.json; {way_out}")
    return {path.parent.relative_to(folder).as_posix(): read_record(path) for path in paths}


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """Write one line for each logged iteration.

    A term that a row lacks is an empty field: a warm-up has fewer.
    """
    write_csv(path, history, end="\r\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], end: str = "\n") -> None:
    """Write a header and a line for each row, columns in the order in which they first occur.

    Args:
        path: written atomically.
        rows: column -> value. What a row lacks, or has as None, is an empty field.
        end: of a line.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_history(path: Path) -> list[dict[str, float]]:
    """Return what write_history wrote; raise ParameterError, naming the file, for a damaged one."""
    with naming(path):
        text = path.read_bytes().decode()
        if not text.endswith("\n"):
            raise ValueError("its end is missing")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
