"""The public names, and what the pages outside the code promise about them."""

import ast
import importlib
import re
from typing import get_args

import pytest
import torch
import yaml
from conftest import ROOT

import asintrovae
from asintrovae.config import ModelName
from asintrovae.data import example_shape
from asintrovae.theory.networks import PUBLISHED_WIDTHS

# fmt: off
PUBLIC = [
    "Gaussian", "kl_to_standard_normal", "reparameterize",
    "expected_likelihood_kernel", "as_distance", "annealing_weight",
    "VAE", "IntroVAE", "SoftIntroVAE", "ASIntroVAE", "WGANGP",
    "RunConfig", "ParameterError", "train", "load_run", "save_record", "save_samples",
    "build_data", "build_model", "build_objective", "build_features",
    "evaluate", "reconstruct", "sample", "histogram_divergences",
    "frechet_distance", "precision_recall", "kernel_distance", "density_coverage",
    "psnr", "ssim", "mse",
    "load_pretrained", "model_card", "pretrained",
]
# fmt: on


def test_public_names_are_these():
    assert sorted(asintrovae.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(asintrovae, name).__doc__, name


def test_signatures_are_those_of_the_book():
    a, var = torch.zeros(3, 2), torch.ones(3, 2)
    gram = asintrovae.expected_likelihood_kernel(
        a, var, a[:2], var[:2], weight="prior", reduction="mean", log=True
    )
    assert gram.shape == (3, 2)
    assert asintrovae.as_distance(a, var, a, var, kernel="product", estimator="u").shape == ()
    assert asintrovae.kl_to_standard_normal(a, a).shape == (3,)


def resolve(name: str) -> object:
    """The object behind a dotted name, importing as much of it as is a module."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_every_name_of_the_notation_page_exists():
    symbols = (ROOT / "book" / "notation.md").read_text().split("\n## ")[1]
    rows = [line for line in symbols.splitlines() if line.startswith("|")][2:]
    names = [
        name
        for row in rows
        for name in re.findall(r"`([^`]+)`", row.replace(r"\|", "").split("|")[4])
    ]
    assert len(names) > 15
    trees = [ast.parse(path.read_text()) for path in (ROOT / "asintrovae").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {node.arg for node in nodes if isinstance(node, ast.arg)} | {
        n.id for n in nodes if isinstance(n, ast.Name)
    }
    for name in names:
        if name.startswith("torch."):
            resolve(name)
        elif "." in name or name in PUBLIC:
            resolve(f"asintrovae.{name}")
        else:
            assert name in used, f"notation.md names {name}, which is no variable of the package"


def test_environment_and_constraints_pin_the_same_versions():
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    by_pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert by_pip == [*pins, "-e ."]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)


PARAMS = ROOT / "book" / "training" / "params"
ROWS = ("mnist", "cifar10", "celeba128", "celeba256", "oxford")  # of the image tables


def parameters(*names):
    """As papermill reads several files: the later one wins."""
    return {
        key: value
        for name in names
        for key, value in yaml.safe_load((PARAMS / f"{name}.yaml").read_text()).items()
    }


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda p: p.stem)
def test_parameter_files_are_valid(path):
    asintrovae.RunConfig(**parameters(path.stem))


@pytest.mark.parametrize("model", get_args(ModelName))
@pytest.mark.parametrize("row", [*ROWS, "mnist-laptop"])
def test_every_row_of_the_image_tables_takes_every_model(row, model):
    config = asintrovae.RunConfig(**parameters(row, f"model/{model}"))
    assert (config.model, config.c) == (model, None)
    assert (config.beta_rec, config.margin > 0) == (0.05 if model == "intro" else 1.0, True)
    if model == "intro":
        assert (config.beta_kl, config.beta_neg, config.beta_neg_decoder) == (1.0, 0.25, 0.5)
    assert config.adam_betas == ((0.0, 0.9) if model == "wgan_gp" else (0.9, 0.999))
    assert config.ema == (0.999 if row in ROWS and model != "wgan_gp" else 0)


@pytest.mark.parametrize("path", sorted((PARAMS / "model").glob("*-*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("row", [*ROWS, "8gaussians-c1"])
def test_every_row_takes_every_published_form(row, path):
    config = asintrovae.RunConfig(**parameters(row, f"model/{path.stem}"))
    assert config.model == path.stem.partition("-")[0]


def test_parameter_files_of_points_have_the_published_networks():
    """Four hidden layers of 256; the laptop's files would have others."""
    names = [path.stem for path in PARAMS.glob("*-c?.yaml")]
    assert len(names) == 6
    assert {tuple(parameters(name)["widths"]) for name in names} == {(256,) * 4}


def test_faces_and_flowers_are_squeezed_and_mirrored_as_published():
    for name in ROWS:
        config = asintrovae.RunConfig(**parameters(name))
        published = ("crop", False) if config.dataset in ("mnist", "cifar10") else ("squeeze", True)
        assert (config.fit, config.mirror) == published


def test_parameter_files_of_images_have_the_published_networks():
    """Channels as the table in networks says, for the resolution of the data set; the image tables
    have these five rows."""
    for name in ROWS:
        config = asintrovae.RunConfig(**parameters(name))
        assert config.widths == PUBLISHED_WIDTHS[example_shape(config)[1]], name
