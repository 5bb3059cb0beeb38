"""Measure what a FID can tell: its floor, its dependence on the sample count, and what resize, JPEG
and bfloat16 do to it.

usage: ASINTROVAE_DATA=FOLDER OMP_NUM_THREADS=2 python data/fid/make.py WEIGHTS
FOLDER holds MNIST, CIFAR-10 and Flowers-102, WEIGHTS is the file of InceptionV3's weights. Writes
record.json, which grows with every group of measurements, and features.safetensors of eight fixed
images. An hour and a half on one core, most of it for all images of CIFAR-10; features are kept, so
an interrupted study goes on where it was.
"""

import io
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from asintrovae import build_model, load_run
from asintrovae.data.images import decoded, shuffled
from asintrovae.data.sources import find_images
from asintrovae.evaluation.evaluate import sample
from asintrovae.evaluation.feature_cache import real_features
from asintrovae.evaluation.features import RESIZE, FeatureNetwork, inception
from asintrovae.evaluation.measures import precision_recall
from asintrovae.files import embedded, write_atomically
from asintrovae.randomness import generator_for
from asintrovae.running.provenance import versions
from asintrovae.theory.networks import Autoencoder

HERE = Path(__file__).resolve().parent
COUNTS, FEW = (500, 1000, 2000, 5000, 10000), 500
MODELS = ("vae", "soft_intro")


def fid(a: Tensor, b: Tensor) -> float:
    """`frechet_distance` of features (n, 2048), (m, 2048): tr (C_a C_b)^½ is a sum of singular
    values, of few where n or m is."""
    a, b = a.double(), b.double()
    shift, centred = a.mean(0) - b.mean(0), [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    factors = [torch.linalg.qr(x, mode="r").R for x in centred]  # C = factor.T @ factor
    traces = sum(factor.square().sum() for factor in factors)
    root_trace = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return round(float(shift @ shift + traces - 2 * root_trace), 3)


def fids(a: Tensor, b: Tensor) -> dict[str, list[float]]:
    """By sample count n: the FID of each pair of disjoint blocks of n images, as far as there are
    so many."""
    least = min(len(a), len(b))
    blocks = {
        n: zip(a[:least].split(n), b[:least].split(n), strict=True) for n in COUNTS if n <= least
    }
    return {str(n): [fid(*pair) for pair in pairs] for n, pairs in blocks.items()}


def through_pillow(images: Tensor, change) -> Tensor:
    """Bytes (N, 3, H, W), each image changed on its own."""
    changed = [change(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in changed])


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


def networks(weights: str) -> dict[str, FeatureNetwork]:
    """Three forms of one network: in bfloat16, in float32, and in bfloat16 with the resize of
    TensorFlow 1."""
    made = {
        name: FeatureNetwork("inception", inception(weights), 3, torch.device("cpu"), "bf16-mixed")
        for name in "abc"
    }
    made["b"].precision, made["c"].network.use_antialias = "32-true", False
    return dict(zip(("bfloat16", "float32", "tensorflow1"), made.values(), strict=True))


def study(network: dict[str, FeatureNetwork]) -> Iterator[tuple[str, dict]]:
    """Name and values of each group of measurements, the ones that matter most first."""

    def features(images: Tensor, what: str, how: str = "bfloat16") -> Tensor:
        return real_features(network[how], images, *what.split("-", 1))

    cifar = dict(zip(("train", "test"), find_images("cifar10"), strict=True))
    real = {
        split: features(images[: COUNTS[-1]], f"cifar10-{split}") for split, images in cifar.items()
    }
    yield "floor of cifar10", fids(real["train"], real["test"])

    mnist = dict(zip(("train", "test"), map(shuffled, find_images("mnist")), strict=True))
    digits = {
        split: features(images[: COUNTS[-1]], f"mnist-{split}") for split, images in mnist.items()
    }
    yield "floor of mnist", fids(digits["train"], digits["test"])

    runs = {name: load_run(embedded("runs/mnist_laptop") / f"{name}-0") for name in MODELS}
    fakes = {
        name: features(sample(run.model, FEW, 0), f"samples-{name}") for name, run in runs.items()
    }
    torch.manual_seed(0)
    fakes["untrained"] = features(
        sample(build_model(runs["vae"].config, (1, 28, 28)), FEW, 0), "samples-untrained"
    )
    in_one_batch = in_train_mode(runs["soft_intro"].model, FEW)
    fakes["soft_intro, train mode"] = features(in_one_batch, "samples-train")
    against = digits["test"].split(FEW)[:2]  # two blocks: how far the score depends on them
    yield (
        "models on mnist",
        {name: [fid(fake, block) for block in against] for name, fake in fakes.items()},
    )

    few = {split: images[:FEW] for split, images in cifar.items()}
    train, test = (real[split][:FEW] for split in ("train", "test"))
    for quality in (90, 50):
        images = through_pillow(few["test"], lambda image, quality=quality: jpeg(image, quality))
        spoiled = features(images, f"cifar10-test-jpeg{quality}")
        yield (
            f"JPEG {quality}",
            {"against train": fid(train, spoiled), "against the originals": fid(test, spoiled)},
        )

    other = {
        split: features(images, f"cifar10-{split}-tensorflow1", "tensorflow1")
        for split, images in few.items()
    }
    one_side = {
        "against train": fid(train, other["test"]),
        "against the originals": fid(test, other["test"]),
    }
    yield "resize of TensorFlow 1", one_side | {"both sides": fid(other["train"], other["test"])}

    exact = {
        split: features(images, f"cifar10-{split}", "float32") for split, images in few.items()
    }
    both = {"bf16-mixed": fid(train, test), "32-true": fid(exact["train"], exact["test"])}
    yield (
        "precision",
        {"n": FEW, **both, "one against the other, same images": fid(exact["test"], test)},
    )

    paths = dict(zip(("train", "test"), find_images("flowers128"), strict=True))
    flowers = {
        split: features(decoded(shuffled(files)[:2000], 64, split)[0], f"flowers64-{split}")
        for split, files in paths.items()
    }
    yield "floor of flowers64", fids(flowers["train"], flowers["test"])

    sets = {"mnist": digits, "cifar10": real, "flowers64": flowers}
    shares = {
        name: precision_recall(pair["test"][:1000], pair["train"][:1000])._asdict()
        for name, pair in sets.items()
    }
    yield "precision and recall of 1,000 training images", shares

    whole = {split: features(images, f"cifar10-{split}") for split, images in cifar.items()}
    yield "all of cifar10, 50,000 against 10,000", {"fid": fid(whole["train"], whole["test"])}


@torch.no_grad()
def in_train_mode(model: Autoencoder, count: int) -> Tensor:
    """The images of `sample`, but normalised with the statistics of this one batch."""
    return model.train().decode(
        torch.randn(count, model.latent_dim, generator=generator_for(0, "samples"))
    )


def fixed_images() -> dict[str, Tensor]:
    """Four digits that travel with the package and four images of CIFAR-10, all from the beginning
    of the test sets."""
    return {name: find_images(name)[1][:4] for name in ("mnist-subset", "cifar10")}


def main(weights: str) -> None:
    network = networks(weights)
    fixed = {name: network["float32"](images) for name, images in fixed_images().items()}
    save_file(fixed, HERE / "features.safetensors")
    record = {
        "command": "python data/fid/make.py WEIGHTS",
        "weights": network["bfloat16"].weights,
        "resize": RESIZE,
        "fid_precision": "bf16-mixed",
        "device": f"cpu {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    for name, values in study(network):
        record[name] = values
        write_atomically(HERE / "record.json", (json.dumps(record, indent=2) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1])
