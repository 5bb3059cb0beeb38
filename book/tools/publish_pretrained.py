"""Make trained models of recorded runs: weights and card of the best seed of each group.

usage: python book/tools/publish_pretrained.py GROUP ...

A GROUP is a folder whose sub-folders 0, 1, ... are runs that differ in their seed alone, with the
checkpoints of those to choose from, such as data/runs/mnist_ten_epochs/soft_intro. The model is
named MODEL-DATASET and written to data/pretrained. The seed is the one with the best score on
validation data that neither the training nor the test uses.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from asintrovae import RunConfig, build_data, build_features, load_run, sample
from asintrovae.config import FREE, POINTS, marked
from asintrovae.data import ToyData
from asintrovae.evaluation.evaluate import evaluate_features, evaluate_points
from asintrovae.evaluation.statistics import paired_ratio
from asintrovae.figures.style import MODEL_NAMES
from asintrovae.files import write_atomically
from asintrovae.randomness import generator_for
from asintrovae.ranges import clamped
from asintrovae.running.records import Run
from asintrovae.trained import MEASURES
from safetensors.torch import save

ROOT = Path(__file__).resolve().parents[2]
VALIDATION = 10**6
"""Seed of the validation points and samples; those of test and training have the run's."""
MNIST = "Y. LeCun, C. Cortes and C. J. C. Burges"
DATA = {
    "8gaussians": ("8 Gaussians on a circle", "drawn by this package, MIT"),
    "25gaussians": ("25 Gaussians on a grid", "drawn by this package, MIT"),
    "checkerboard": ("the 8 dark squares of a checkerboard", "drawn by this package, MIT"),
    "2spirals": ("two spirals", "drawn by this package, MIT"),
    "rings": ("four rings", "drawn by this package, MIT"),
    "mnist": (f"MNIST, 60,000 handwritten digits ({MNIST})", "CC BY-SA 3.0"),
    "mnist-subset": (f"6,000 handwritten digits of MNIST ({MNIST})", "CC BY-SA 3.0"),
}
"""Data set -> what it is, and its licence."""
TRIED = (
    "Its settings were chosen by test scores of short trials, so its score is slightly optimistic."
)
"""Limit of the models of book/training/sweeps/pretrained_points.yaml."""
RATIOS = ("protocol_kl", "protocol_jsd", "frechet_mnist_classifier")
"""Measures that get an interval over seeds: positive, and compared by their ratio."""


def runs_of(group: Path) -> dict[int, Run]:
    """Return the finished runs of a group by their seed."""
    found = [load_run(path.parent) for path in sorted(group.glob("*/record.json"))]
    runs = {run.config.seed: run for run in found if run.record["status"] == "finished"}
    if not runs or any(run.model is None for run in runs.values()):
        sys.exit(f"{group}: needs finished runs with their checkpoints in sub-folders")
    return runs


def headline(config: RunConfig) -> str:
    """Return the measure that chooses the seed."""
    return "protocol_kl" if config.dataset in POINTS else "frechet_mnist_classifier"


def validated(run: Run) -> float:
    """Return the score of a run on validation data, the lower the better."""
    config = run.config.model_copy(update={"device": "cpu"})
    data, count = build_data(config), config.evaluation_samples
    assert run.model is not None
    fake = sample(run.model, count, VALIDATION)
    if isinstance(data, ToyData):
        real = data.density.sample(count, generator_for(VALIDATION, "evaluation"))
        scores = evaluate_points(real, fake, data)
    else:  # the test images behind those that the test uses
        features = build_features(config)
        assert features is not None
        real = data.evaluation(2 * count)[count:]
        scores = evaluate_features(features(real), features(clamped(fake)), features.name)
    score = scores[headline(config)]
    return float("inf") if score is None else round(float(score), 4)


def scores_of(runs: dict[int, Run], chosen: int) -> dict[str, Any]:
    """Return the test scores of the chosen seed and of all seeds."""
    found: dict[str, Any] = {}
    for name in MEASURES:
        values = [run.record["metrics"].get(name) for run in runs.values()]
        if None in values:
            continue
        found[name] = {"value": runs[chosen].record["metrics"][name], "seeds": values}
        if name in RATIOS and len(values) > 1:
            mean = paired_ratio(values, [1.0] * len(values))
            found[name] |= {"mean": mean.estimate, "low": mean.low, "high": mean.high}
    return found


def how_chosen(scores: dict[int, float], config: RunConfig) -> str:
    """Return how the seed was chosen, in a sentence."""
    (first, *others) = scores
    if not others:
        return f"one run, of seed {first}; nothing was chosen."
    listed = ", ".join(f"{seed}: {score:.3g}" for seed, score in scores.items())
    kind = "points" if config.dataset in POINTS else "images"
    chosen = min(scores, key=lambda seed: scores[seed])
    apart = f"{config.evaluation_samples} validation {kind} apart from the test"
    return f"{len(scores)} runs; seed {chosen} is best on {apart} ({listed})."


def limits(config: RunConfig, scores: dict[str, Any], floor: float | None) -> list[str]:
    """Return what the model cannot do, in two or three sentences."""
    if floor is not None:
        found = scores["protocol_kl"]["value"]
        return [
            "It draws points of this density alone, and is meant to be looked into.",
            f"Its samples are not exact: their KL divergence is {found:.3g}, where as many points "
            f"of the density itself have {floor:.3g}.",
            *([TRIED] if "pretrained_points" in config.run_dir else []),
        ]
    precision, recall = (
        scores[f"{name}_mnist_classifier"]["value"] for name in ("precision", "recall")
    )
    return [
        "It draws grey digits of 28 x 28 pixels without labels; you cannot ask for a certain one.",
        f"To the digit classifier, {1 - precision:.0%} of its samples look like no test digit, and "
        f"{1 - recall:.0%} of the test digits look like none of its samples.",
    ]


def floor_of(config: RunConfig) -> float | None:
    """Return the KL divergence of as many points of the density itself, None for images."""
    data = build_data(config.model_copy(update={"device": "cpu"}))
    if not isinstance(data, ToyData):
        return None
    count = config.evaluation_samples
    other = data.density.sample(count, generator_for(VALIDATION, "evaluation"))
    return float(evaluate_points(data.evaluation(count), other, data)["protocol_kl"])


def settings_of(config: RunConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all parameters that decide on numbers, and those of them that are not the defaults."""
    every = {
        name: value
        for name, value in config.model_dump(mode="json").items()
        if name not in marked(FREE)
    }
    usual = RunConfig(dataset=config.dataset).model_dump(mode="json")
    named = ("model", "dataset", "seed")
    other = {name: value for name, value in every.items() if value != usual[name]}
    return every, {name: value for name, value in other.items() if name not in named}


def publish(group: Path, folder: Path) -> str:
    """Write weights and card of the best seed of a group; return the model's name."""
    runs = runs_of(group)
    one = len(runs) == 1
    scores = {seed: 0.0 if one else validated(run) for seed, run in runs.items()}
    chosen = min(scores, key=lambda seed: scores[seed])
    run, record = runs[chosen], runs[chosen].record
    assert run.model is not None
    config = run.config
    tensors = {name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}
    content, name = save(tensors), f"{config.model}-{config.dataset}"
    every, other = settings_of(config)
    what, licence = DATA[config.dataset]
    tested = scores_of(runs, chosen)
    kind = "points" if config.dataset in POINTS else "images"
    numbers = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    averaged = f" The weights are a moving average, decay {config.ema}." * bool(config.ema)
    card = {
        "name": name,
        "model": config.model,
        "summary": f"{MODEL_NAMES[config.model]} of {what}; {config.iterations:,} iterations of "
        f"{config.batch_size} examples, {config.latent_dim} latent axes.{averaged}",
        "data": {"name": config.dataset, "what": what, "licence": licence},
        "seeds": {
            "trained": list(runs),
            "chosen": chosen,
            "validation": {} if one else {str(seed): score for seed, score in scores.items()},
            "how": how_chosen(scores, config),
        },
        "headline": headline(config),
        "scores": tested,
        "measured": f"Measured on {config.evaluation_samples} test {kind} and as many samples. "
        "A mean over seeds is geometric, with its 95 % interval.",
        "limits": limits(config, tested, floor_of(config)),
        "settings": other,
        "config": every,
        "code": record["code"],
        "versions": record["versions"],
        "seconds": record["seconds"] / record["trained_together"],
        "weights": {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "numbers": numbers,
            "type": "float32",
            "licence": "CC BY 4.0",
        },
    }
    write_atomically(folder / f"{name}.safetensors", content)
    text = json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / f"{name}.json", text.encode())
    return f"{name}: seed {chosen} of {list(runs)}, {len(content) / 1000:.0f} kB"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if not sys.argv[1:]:
        sys.exit(__doc__)
    for argument in sys.argv[1:]:
        print(publish(Path(argument), ROOT / "data" / "pretrained"), flush=True)
