"""Score the models of data/runs/mnist_ten_epochs with InceptionV3, on 1,000 digits of each, and
1,000 training digits beside them.

usage: ASINTROVAE_DATA=FOLDER OMP_NUM_THREADS=1 python data/fid/ten_epochs.py WEIGHTS [RUNS]
FOLDER holds MNIST, WEIGHTS is the file of InceptionV3's weights, RUNS a folder of runs in place of
the recorded ones. Adds a model that ten_epochs.json lacks, so an interrupted study goes on where it
was. A minute a model on one core.
"""

import json
import sys
from pathlib import Path

import torch

from asintrovae import RunConfig, build_data, load_run
from asintrovae.evaluation.evaluate import samples
from asintrovae.evaluation.feature_cache import real_features
from asintrovae.evaluation.features import FeatureNetwork, inception
from asintrovae.evaluation.measures import (
    density_coverage,
    frechet_distance,
    kernel_distance,
    moments,
    precision_recall,
)
from asintrovae.files import embedded, write_atomically
from asintrovae.ranges import clamped
from asintrovae.running.provenance import versions

FILE, COUNT, SEED = Path(__file__).with_name("ten_epochs.json"), 1000, 0


def main(weights: str, runs: str | Path) -> None:
    network = FeatureNetwork("inception", inception(weights), 3, torch.device("cpu"), "bf16-mixed")
    data = build_data(RunConfig(dataset="mnist", device="cpu"))
    digits = data.test_images(COUNT)
    real = real_features(network, digits, "mnist", "test").double()
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    found |= {"command": "python data/fid/ten_epochs.py WEIGHTS", "count": COUNT, "seed": SEED}
    found |= {"weights": network.weights, "fid_precision": "bf16-mixed", "versions": versions()}
    models = found.setdefault("models", {})

    def keep(name: str, fake: torch.Tensor) -> None:
        """Write the scores of features (n, F) of generated digits."""
        scores = {"fid": frechet_distance(*moments(fake), *moments(real)).item()}
        scores["kid"] = kernel_distance(real, fake)
        scores |= precision_recall(real, fake)._asdict() | density_coverage(real, fake)._asdict()
        models[name] = {key: round(value, 5) for key, value in scores.items()}
        print(name, models[name], flush=True)
        write_atomically(FILE, (json.dumps(found, indent=2) + "\n").encode())

    if "real" not in models:
        train = data.train[:COUNT].float() / 255
        keep("real", torch.cat([network(part) for part in train.split(100)]).double())
    for record in sorted(Path(runs).glob("*/*/record.json")):
        name = "/".join(record.parts[-3:-1])
        if name in models:
            continue
        parts = samples(load_run(record.parent).model, COUNT, SEED)
        fake = torch.cat([network(clamped(part)) for part in parts]).double()
        keep(name, fake)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else embedded("runs/mnist_ten_epochs"))
