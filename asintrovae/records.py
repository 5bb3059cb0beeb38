"""A finished run as data: record.json (what was done, where, with what result) and history.csv (its curves)."""

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
from asintrovae.checkpoint import load_checkpoint, restore_evaluated
from asintrovae.config import RunConfig
from asintrovae.data import example_shape
from asintrovae.data.files import code_hash, write_atomically
from asintrovae.networks import GAN, Autoencoder
from asintrovae.training import TrainingResult


@dataclass(frozen=True)
class Run:
    """A recorded run. model: as it was evaluated, at its last good checkpoint, None where the record travels without one."""

    config: RunConfig
    record: dict[str, Any]
    history: list[dict[str, float]]
    model: Autoencoder | GAN | None


def save_record(config: RunConfig, result: TrainingResult, metrics: dict[str, Any], skipped_images: int = 0) -> dict[str, Any]:
    """Write history.csv and record.json to config.run_dir; returns the record. A metric that is not finite becomes None.

    skipped_images: files of the data set that could not be read, as ImageData counts them.
    """
    device = config.torch_device()
    record = {
        "status": "finished" if result.divergence is None else "diverged",
        "diverged": None if result.divergence is None else asdict(result.divergence),
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "seconds": round(result.seconds, 1),
        "trained_together": result.members,
        "skipped_images": skipped_images,
        "config": config.model_dump(mode="json"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}",
        "threads": threads_for(config),
        "versions": versions(),
        "code": code_hash(),
    }
    run_dir = Path(config.run_dir)
    write_history(run_dir / "history.csv", result.history)
    write_atomically(run_dir / "record.json", (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    return record


RECORDED_SAMPLES = 2000
"""How many generated points `save_samples` keeps."""


def save_samples(config: RunConfig, points: Tensor) -> None:
    """Write the first RECORDED_SAMPLES of generated points (N, 2) to run_dir/samples.npy, in float16 (three digits)."""
    content = io.BytesIO()
    numpy.save(content, points[:RECORDED_SAMPLES].cpu().numpy().astype(numpy.float16), allow_pickle=False)
    write_atomically(Path(config.run_dir) / "samples.npy", content.getvalue())


def load_samples(run_dir: str | Path) -> Tensor:
    """What save_samples wrote, (N, 2), in float32. Raises FileNotFoundError where there are none."""
    return torch.from_numpy(numpy.load(Path(run_dir) / "samples.npy", allow_pickle=False).astype(numpy.float32))


def load_run(run_dir: str | Path) -> Run:
    """A run from its folder. Raises FileNotFoundError, naming the folder, where it holds no finished run."""
    run_dir = Path(run_dir)
    if not (run_dir / "record.json").exists():
        raise FileNotFoundError(f"run_dir='{run_dir}' holds no record.json; train first, or give the folder of a finished run")
    record = json.loads((run_dir / "record.json").read_text())
    config = RunConfig(**record["config"])
    history = read_history(run_dir / "history.csv")
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        return Run(config, record, history, None)
    here = config.model_copy(update={"device": "cpu"})  # readable on a machine without the device it was trained on
    model = build_model(here, example_shape(here))
    restore_evaluated(checkpoint, model)
    return Run(config, record, history, model)


def load_records(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The records of all runs below a folder, by the path of each from there, sorted; without histories and weights.

    Raises FileNotFoundError, naming the folder, where it holds none.
    """
    folder = Path(folder)
    paths = sorted(folder.rglob("record.json"), key=lambda path: path.parts)
    if not paths:
        raise FileNotFoundError(f"folder='{folder}' holds no record.json; run the sweep that fills it, or name another")
    return {path.parent.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in paths}


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One line per logged iteration; a term that a row lacks (warm-up has fewer) is an empty field."""
    write_csv(path, history, end="\r\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], end: str = "\n") -> None:
    """Write a header and a line per row, columns in the order in which they first occur.

    What a row lacks, or has as None, is an empty field. end: of a line.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_history(path: Path) -> list[dict[str, float]]:
    """What write_history wrote."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    import asintrovae  # its version is set once the package is whole

    return {
        "python": platform.python_version(),
        "asintrovae": asintrovae.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
