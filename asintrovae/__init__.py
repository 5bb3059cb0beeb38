"""Introspective variational autoencoders, from VAE to AS-IntroVAE: the code behind the book.

A public name is imported from its module when it is first used, so that `asintrovae.theory` loads
neither files nor parameters.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asintrovae.build import build_data, build_model, build_objective
    from asintrovae.config import ParameterError, RunConfig
    from asintrovae.evaluation.evaluate import evaluate, reconstruct, sample
    from asintrovae.evaluation.features import build_features
    from asintrovae.evaluation.measures import (
        density_coverage,
        frechet_distance,
        histogram_divergences,
        kernel_distance,
        mse,
        precision_recall,
        psnr,
        ssim,
    )
    from asintrovae.running.records import load_run, save_record, save_samples
    from asintrovae.running.train import train
    from asintrovae.theory.distance import as_distance, expected_likelihood_kernel
    from asintrovae.theory.gaussian import Gaussian, kl_to_standard_normal, reparameterize
    from asintrovae.theory.objectives import (
        VAE,
        WGANGP,
        ASIntroVAE,
        IntroVAE,
        SoftIntroVAE,
        annealing_weight,
    )
    from asintrovae.trained import load_pretrained, model_card, pretrained

ROOMS = {
    "build": ("build_data", "build_model", "build_objective"),
    "config": ("ParameterError", "RunConfig"),
    "evaluation.evaluate": ("evaluate", "reconstruct", "sample"),
    "evaluation.features": ("build_features",),
    "evaluation.measures": (
        "density_coverage",
        "frechet_distance",
        "histogram_divergences",
        "kernel_distance",
        "mse",
        "precision_recall",
        "psnr",
        "ssim",
    ),
    "running.records": ("load_run", "save_record", "save_samples"),
    "running.train": ("train",),
    "theory.distance": ("as_distance", "expected_likelihood_kernel"),
    "theory.gaussian": ("Gaussian", "kl_to_standard_normal", "reparameterize"),
    "theory.objectives": (
        "VAE",
        "WGANGP",
        "ASIntroVAE",
        "IntroVAE",
        "SoftIntroVAE",
        "annealing_weight",
    ),
    "trained": ("load_pretrained", "model_card", "pretrained"),
}
"""Module -> its public names."""
HOME = {name: module for module, names in ROOMS.items() for name in names}

__all__ = [
    "VAE",
    "WGANGP",
    "ASIntroVAE",
    "Gaussian",
    "IntroVAE",
    "ParameterError",
    "RunConfig",
    "SoftIntroVAE",
    "annealing_weight",
    "as_distance",
    "build_data",
    "build_features",
    "build_model",
    "build_objective",
    "density_coverage",
    "evaluate",
    "expected_likelihood_kernel",
    "frechet_distance",
    "histogram_divergences",
    "kernel_distance",
    "kl_to_standard_normal",
    "load_pretrained",
    "load_run",
    "model_card",
    "mse",
    "precision_recall",
    "pretrained",
    "psnr",
    "reconstruct",
    "reparameterize",
    "sample",
    "save_record",
    "save_samples",
    "ssim",
    "train",
]

try:
    __version__ = version("asintrovae")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    """Import a public name from its module, once."""
    if name not in HOME:
        raise AttributeError(f"module 'asintrovae' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"asintrovae.{HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
