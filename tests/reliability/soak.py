"""A long run: does memory grow, do file handles stay open?

Writes data/reliability/soak.json; `make soak` runs it.

A tiny AS-IntroVAE on points for 200,000 iterations and one on images for 2,000, with logging,
checkpoints, evaluation and the samples of the images. Resident memory and open files are noted at
every checkpoint; the first fifth is warm-up.
"""

import argparse
import contextlib
import ctypes
import gc
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from records_of_tests import measured_on, write

from asintrovae import RunConfig, build_data, build_model, build_objective, evaluate, train
from asintrovae.running import train as training

POINTS = {
    "iterations": 200_000,
    "widths": (8,),
    "batch_size": 16,
    "log_every": 1000,
    "checkpoint_every": 1000,
}
IMAGES = {"dataset": "mnist-subset", "widths": (2, 4), "batch_size": 16, "latent_dim": 4}
IMAGES |= {"iterations": 2000, "log_every": 100, "checkpoint_every": 20}


def may_grow(log_every: int) -> float:
    """Bytes per iteration: a row of the history has up to 3,000, a tensor kept by mistake in each
    iteration takes hundreds."""
    return 40 + 3000 / log_every


class Watched(training.Loop):
    """The loop, with an evaluation and a look at the process after every checkpoint."""

    seen: list[tuple[int, int, int]]

    def save(self, done: int, at_once: bool = False) -> bool:
        """As Loop."""
        saved = super().save(done, at_once)
        evaluate(self.model, self.data, self.config)
        gc.collect()
        with contextlib.suppress(
            OSError, AttributeError
        ):  # what the allocator keeps for later jumps by 50 MB both ways
            ctypes.CDLL(None).malloc_trim(0)
        process = psutil.Process()
        self.seen.append((done, process.memory_info().rss, process.num_fds()))
        return saved


def soak(name: str, config: RunConfig) -> dict[str, Any]:
    """Train config; what was seen on the way."""
    data = build_data(config)
    model = build_model(config, data.shape)
    Watched.seen = []
    training.Loop = Watched  # type: ignore[misc]
    started, cpu = time.monotonic(), time.process_time()
    result = train(model, build_objective(config), data, config)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    done, memory, handles = np.array(
        [seen for seen in Watched.seen if seen[0] >= config.iterations // 5]
    ).T
    slope = np.polyfit(done, memory, 1)[0]
    return {
        "run": name,
        "iterations": config.iterations,
        "checkpoints": len(Watched.seen),
        "rows_of_the_history": len(result.history),
        "diverged": result.divergence is not None,
        "bytes_per_iteration": round(float(slope), 2),
        "memory_mb": [round(float(bytes_) / 1e6, 1) for bytes_ in (memory.min(), memory.max())],
        "file_handles": [int(handles.min()), int(handles.max())],
        "seconds": round(seconds),
        "cpu_seconds": round(cpu),
    }


def main() -> int:
    """Command line; 1 where memory or the number of open files grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--iterations",
        type=int,
        default=POINTS["iterations"],
        help="of the run on points; fewer are not recorded",
    )
    iterations = parser.parse_args().iterations
    small = {"device": "cpu", "threads": 1, "evaluation_samples": 500}
    with tempfile.TemporaryDirectory() as folder:
        points = RunConfig(
            **{**small, **POINTS, "iterations": iterations, "run_dir": f"{folder}/points"}
        )
        runs = [
            soak("points", points),
            soak("images", RunConfig(**small, **IMAGES, run_dir=f"{folder}/images")),
        ]
        runs[1]["rows_of_samples"] = len(list(Path(folder, "images", "progress").iterdir()))
    flat = all(
        run["bytes_per_iteration"] < may_grow(sizes["log_every"])
        and run["file_handles"][0] == run["file_handles"][1]
        for run, sizes in zip(runs, (POINTS, IMAGES), strict=True)
    )
    for run in runs:
        print(run)
    if iterations == POINTS["iterations"]:
        print(write("soak.json", {"runs": runs, "flat": flat, **measured_on()}))
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
