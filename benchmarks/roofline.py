"""Estimated hours of every reference run on three GPUs: python -m benchmarks.roofline.

Neither a GPU nor a data set nor a compiler is needed. Tensors are fake: they have shapes and no
numbers. One iteration of the real loop is counted, operation by operation, and each operation takes

    t = max(kernels * launch, bytes / (0.8 bandwidth), FLOP / (0.5 peak)).

Nothing here is measured. It takes some minutes and writes results/roofline.json.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from asintrovae import RunConfig, build_objective
from asintrovae.build import new_model
from asintrovae.data import example_shape
from asintrovae.running.loop import Loop
from asintrovae.theory import tiled_distance
from asintrovae.theory.objectives import Noise
from asintrovae.threads import torch_threads
from benchmarks.measuring import LiveBytes, kernels, modules_move

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "book" / "training" / "params"
RESULT = Path(__file__).parent / "results" / "roofline.json"
MODELS = ("vae", "intro", "soft_intro", "as_intro", "wgan_gp")
ALL_MODELS = "cifar10"
"""The row that is counted for every model, the others for S-IntroVAE."""
LAUNCH = (5e-6, 3e-6, 10e-6)
"""Seconds of the host for one kernel: as assumed, at the least, at the most."""
BANDWIDTH_USED, PEAK_USED = 0.8, 0.5
"""Shares of the published figures that a run is taken to reach."""


class Card(NamedTuple):
    """Published figures of a GPU.

    Attributes:
        memory: bytes.
        bandwidth: of the memory, bytes per second.
        peaks: precision -> operations per second, dense; without those that the card lacks.
    """

    memory: float
    bandwidth: float
    peaks: dict[str, float]


CARDS = {
    "T4": Card(16e9, 320e9, {"32-true": 8.1e12}),
    "A100": Card(40e9, 1555e9, {"32-true": 19.5e12, "tf32": 156e12, "bf16-mixed": 312e12}),
    "H200": Card(141e9, 4800e9, {"32-true": 67e12, "tf32": 494e12, "bf16-mixed": 989e12}),
}
"""NVIDIA's data sheets of T4, A100 SXM with 40 GB, and H200 SXM."""


class Operation(NamedTuple):
    """What one operation asks of a GPU: kernels, floating-point operations, and bytes moved."""

    kernels: int
    flop: int
    bytes: int


class Operations(LiveBytes):
    """Counts every operation inside, beside the bytes alive: `done`, in their order.

    Bytes are those of all inputs and outputs. FLOP are those of matrix products and convolutions,
    by torch's formulas; others are bound by bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then note it."""
        kwargs = kwargs or {}
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if launched := kernels(func, args):
            formula = flop_registry.get(func._overloadpacket)
            flop = formula(*args, **kwargs, out_val=out) if formula else 0
            written = changed(func, args) if out is None else out
            self.done.append(Operation(launched, flop, size((args, kwargs, written))))
        return out


def changed(func: Any, args: Any) -> list[Any]:
    """Return the arguments that an operation writes into."""
    pairs = zip(func._schema.arguments, args, strict=False)
    return [arg for told, arg in pairs if told.is_write]


def size(tensors: Any) -> int:
    """Return the bytes of all tensors of a tree; an expanded one has those of its storage."""
    found = [x for x in tree_leaves(tensors) if isinstance(x, torch.Tensor)]
    return sum(min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in found)


def iteration(config: RunConfig) -> tuple[list[Operation], int]:
    """Count the second iteration of a run after its warm-up, without the making of its batch.

    Args:
        config: on the CPU, without warm-up. No data set is opened.

    Returns:
        The operations, and the most bytes alive in two iterations, weights and optimisers included.
    """
    # as on CUDA: large tiles, and no look at the variances, for which a GPU would be waited for
    tiles = dict.fromkeys(tiled_distance.TILE, tiled_distance.TILE["cuda"])
    as_cuda = {"TILE": tiles, "check_no_variance": lambda *given: None}
    with (
        mock.patch.multiple(tiled_distance, **as_cuda),
        torch_threads(1),  # a mode does not reach other threads
        modules_move(),
        FakeTensorMode(),
        Operations() as counted,
    ):
        B, n, shape = config.batch_size, config.latent_dim, example_shape(config)
        drawn = torch.rand(B, *shape), Noise(*torch.randn(4, B, n), torch.rand(B))
        loop = Loop(
            new_model(config, shape).train(),
            build_objective(config),
            SimpleNamespace(batch=lambda index: drawn[0]),  # type: ignore[arg-type]
            config.model_copy(update={"ema": 0.0}),  # fake tensors cannot be copied
            lambda i: [drawn] * sum(phase.steps for phase in loop.phases(i)),
        )
        averaged = loop.images_from if config.ema else []
        loop.averages = {name: getattr(new_model(config, shape), name) for name in averaged}
        loop.watch.note(0, loop.iterate(0))
        counted.done.clear()
        loop.watch.note(1, loop.iterate(1))
    return counted.done, counted.peak


def seconds(
    operations: Iterable[Operation], card: Card, precision: str, launch: float = LAUNCH[0]
) -> dict[str, float]:
    """Return the time of operations on a card, by what bounds each of them.

    Args:
        operations: as counted for the precision.
        card: published figures; its peak of this precision is used.
        precision: as in RunConfig.
        launch: seconds of the host for one kernel.

    Returns:
        Seconds of the operations that are bound by "launches", "memory" and "arithmetic".
    """
    total = {"launches": 0.0, "memory": 0.0, "arithmetic": 0.0}
    for operation in operations:
        times = {
            "launches": operation.kernels * launch,
            "memory": operation.bytes / (BANDWIDTH_USED * card.bandwidth),
            "arithmetic": operation.flop / (PEAK_USED * card.peaks[precision]),
        }
        bound = max(times, key=lambda name: times[name])
        total[bound] += times[bound]
    return total


def estimate(operations: list[Operation], card: Card, precision: str, T: int) -> dict[str, Any]:
    """Return the hours of T iterations for each of LAUNCH, and what bounds most of the first."""
    times = [seconds(operations, card, precision, launch) for launch in LAUNCH]
    bound = max(times[0], key=lambda name: times[0][name])
    hours = [float(f"{T * sum(parts.values()) / 3600:.3g}") for parts in times]
    return {"hours": hours, "bound": bound}


def row(name: str, model: str = "soft_intro") -> dict[str, Any]:
    """Count a file of parameters for a model and estimate its hours."""
    given = {}
    for path in (PARAMS / f"{name}.yaml", PARAMS / "model" / f"{model}.yaml"):
        given |= yaml.safe_load(path.read_text())
    found: dict[str, Any] = {"params": name, "model": model, "work": {}, "cards": {}}
    for precision in ("32-true", "bf16-mixed"):
        config = RunConfig(**given | {"device": "cpu", "warmup": 0, "precision": precision})
        operations, peak = iteration(config)
        launched, flop, moved = map(sum, zip(*operations, strict=True))
        work = {"launches": launched, "flop": flop, "bytes": moved, "peak": peak}
        found["work"][precision] = work
        for title, card in CARDS.items():
            for kind in card.peaks:
                if precision == ("32-true" if kind == "tf32" else kind):
                    estimated = estimate(operations, card, kind, config.iterations)
                    found["cards"].setdefault(title, {})[kind] = estimated
    hours = {title: made["32-true"]["hours"][0] for title, made in found["cards"].items()}
    print(f"{name:16s} {model:10s} hours with 32-true {hours}", flush=True)
    return found | {"iterations": config.iterations}


def main() -> None:
    """Count every row, print it and write the record."""
    rows = [row(path.stem) for path in sorted(PARAMS.glob("*.yaml"))]
    rows += [row(ALL_MODELS, model) for model in MODELS if model != "soft_intro"]
    record = {"torch": torch.__version__, "launch": LAUNCH, "rows": rows}
    record |= {"bandwidth_used": BANDWIDTH_USED, "peak_used": PEAK_USED}
    record |= {"cards": {name: card._asdict() for name, card in CARDS.items()}}
    RESULT.write_text(json.dumps({"roofline": record}, indent=1) + "\n")
    print(f"written to {RESULT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
