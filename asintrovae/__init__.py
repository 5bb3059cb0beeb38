"""Introspective variational autoencoders, from VAE to AS-IntroVAE: the code behind the book."""

from importlib.metadata import PackageNotFoundError, version

from asintrovae.build import build_data, build_model, build_objective
from asintrovae.config import ParameterError, RunConfig
from asintrovae.distance import as_distance, expected_likelihood_kernel
from asintrovae.features import build_features
from asintrovae.gaussian import Gaussian, kl_to_standard_normal, reparameterize
from asintrovae.metrics import (
    evaluate,
    frechet_distance,
    histogram_divergences,
    mse,
    precision_recall,
    psnr,
    reconstruct,
    sample,
    ssim,
)
from asintrovae.objectives import VAE, WGANGP, ASIntroVAE, IntroVAE, SoftIntroVAE, annealing_weight
from asintrovae.records import load_run, save_record, save_samples
from asintrovae.training import train

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
    "evaluate",
    "expected_likelihood_kernel",
    "frechet_distance",
    "histogram_divergences",
    "kl_to_standard_normal",
    "load_run",
    "mse",
    "precision_recall",
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
