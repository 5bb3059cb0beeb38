"""Samples, reconstructions and every metric of a trained model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asintrovae.build import threads_for
from asintrovae.config import RunConfig
from asintrovae.data import ImageData, ToyData
from asintrovae.data.images import to_float
from asintrovae.devices import computing_on, moved
from asintrovae.evaluation.feature_cache import real_features
from asintrovae.evaluation.features import FeatureNetwork
from asintrovae.evaluation.measures import (
    PART_BYTES,
    Divergences,
    active_units,
    density_coverage,
    frechet_distance,
    histogram_divergences,
    kernel_distance,
    modes_found,
    moments,
    mse,
    precision_recall,
    psnr,
    ssim,
)
from asintrovae.randomness import generator_for
from asintrovae.ranges import check_other_range, clamped
from asintrovae.theory.batchnorm import evaluating
from asintrovae.theory.gaussian import Gaussian
from asintrovae.theory.networks import GAN, Autoencoder
from asintrovae.threads import torch_threads

TOGETHER = 1000
"""Examples that are evaluated in one batch, at most."""
PIXELS_TOGETHER = 2**22
"""Pixels of the images in one batch, at most: 256 images of 128 x 128."""


def sample(model: Autoencoder | GAN, count: int, seed: int) -> Tensor:
    """Return examples decoded from z ~ p(z), in evaluation mode.

    Args:
        model: autoencoder or GAN.
        count: number of examples.
        seed: fixes z.

    Returns:
        Points (count, 2) or images (count, C, H, W), on the device of the model.

    Example:
        >>> config = RunConfig(device="cpu")
        >>> sample(build_model(config, (2,)), 5, seed=0).shape
        torch.Size([5, 2])
    """
    return torch.cat(list(samples(model, count, seed)))


def samples(model: Autoencoder | GAN, count: int, seed: int) -> Iterator[Tensor]:
    """Yield the examples that `sample` returns, a batch at a time."""
    device = next(model.parameters()).device
    z = torch.randn(count, model.latent_dim, generator=generator_for(seed, "samples")).to(device)
    for part in torch.split(z, together(decoded_pixels(model))):
        with evaluating(model):
            images = model.decode(part)
        yield images


def together(pixels: int) -> int:
    """Return how many examples of so many pixels are evaluated in one batch."""
    return max(1, min(TOGETHER, PIXELS_TOGETHER // pixels))


def decoded_pixels(model: nn.Module) -> int:
    """Return H W of the images that `conv_decoder` makes in a model, 1 for any other decoder."""
    layers = list(model.modules())
    grids = [layer.unflattened_size for layer in layers if isinstance(layer, nn.Unflatten)]
    doublings = sum(isinstance(layer, nn.Upsample) for layer in layers)
    return math.prod(grids[0][1:]) * 4**doublings if len(grids) == 1 else 1


def reconstruct(model: Autoencoder, x: Tensor) -> tuple[Tensor, Gaussian]:
    """Return reconstructions Dec(μ(x)) from the posterior MEAN, and the posteriors.

    The model is in evaluation mode meanwhile.

    Args:
        model: autoencoder.
        x: points (B, 2) or images (B, C, H, W) in [0, 1].

    Returns:
        Reconstructions, of the shape of x, and the posteriors, a `Gaussian` of (B, n).

    Raises:
        ValueError: for images in another range.

    Example:
        >>> model = build_model(RunConfig(device="cpu"), (2,))
        >>> x_r, q = reconstruct(model, torch.zeros(5, 2))
        >>> x_r.shape, q.mean.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """
    if x.dim() == 4:
        check_other_range("x", x, generated=True)
    with evaluating(model):
        parts = torch.split(x, together(math.prod(x.shape[2:])))
        posteriors = [model.encode(part) for part in parts]
        images = torch.cat([model.decode(q.mean) for q in posteriors])
    return images, Gaussian(*(torch.cat(parts) for parts in zip(*posteriors, strict=True)))


def evaluate(
    model: Autoencoder | GAN,
    data: ToyData | ImageData,
    config: RunConfig,
    features: FeatureNetwork | None = None,
) -> dict[str, Any]:
    """Return metrics of a trained model, on test examples and as many generated ones.

    It computes with `threads_for(config, TOGETHER)` threads, as `train` does with its own.

    Args:
        model: autoencoder or GAN.
        data: the data set of the run, from `build_data`.
        config: parameters of the run; evaluation_samples says how many examples are compared.
        features: from `build_features`, for images only.

    Returns:
        The measures by name. Of points the four divergences of `histogram_divergences`, modes found
        where the data have isolated ones, share of samples outside the histogram. Of images PSNR,
        SSIM, MSE of reconstructions clamped to [0, 1]; with a feature network Fréchet distance,
        precision, recall, kernel distance, density and coverage. Of autoencoders active units and
        mean KL in nats. A measure that these examples do not allow is None, and "not_measured" then
        holds name -> reason.

    Raises:
        torch.OutOfMemoryError: naming the way out, where a batch of images does not fit.

    Example:
        >>> config = RunConfig(evaluation_samples=100, device="cpu")
        >>> data = build_data(config)
        >>> metrics = evaluate(build_model(config, data.shape), data, config)
        >>> metrics["evaluation_samples"], metrics["modes"]
        (100, 8)
    """
    device = next(model.parameters()).device
    with (
        torch_threads(threads_for(config, TOGETHER)),
        computing_on(device, config.precision),
        explain_evaluation_out_of_memory(config, device),
    ):
        return measured(model, data, config, features)


@contextmanager
def explain_evaluation_out_of_memory(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Name the way out where a batch of images does not fit into a GPU."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        what = f"device={str(device)!r}: the evaluation with widths={config.widths} does not fit"
        way_out = "end other programs on it, or evaluate the checkpoint with device='cpu'"
        raise torch.OutOfMemoryError(f"{what} ({first}); {way_out}") from None


def measured(
    model: Autoencoder | GAN,
    data: ToyData | ImageData,
    config: RunConfig,
    features: FeatureNetwork | None,
) -> dict[str, Any]:
    """Return the metrics of `evaluate`, with torch's present number of threads."""
    images, count = isinstance(data, ImageData), config.evaluation_samples
    real = data.test_images(count) if isinstance(data, ImageData) else data.evaluation(count)
    metrics: dict[str, Any] = {"evaluation_samples": len(real)}
    if isinstance(data, ToyData):
        metrics |= evaluate_points(real, sample(model, len(real), config.seed), data)
    if features is not None:
        parts = samples(model, len(real), config.seed)
        fake = torch.cat([features(clamped(part)) for part in parts])
        metrics |= evaluate_features(
            real_features(features, real, config.dataset, "test"), fake, features.name
        )
    if isinstance(model, Autoencoder):
        q, fidelity = evaluate_reconstructions(model, real, images)
        metrics |= {"active_units": None, "kl": float(q.kl().mean()), **fidelity}
        if len(real) > 1:
            metrics["active_units"] = active_units(q)
        else:
            metrics.setdefault("not_measured", {})["active_units"] = too_few(2, len(real))
    return metrics


def evaluate_reconstructions(
    model: Autoencoder, real: Tensor, images: bool
) -> tuple[Gaussian, dict[str, float]]:
    """Return posteriors, and measures of reconstructions, PART_BYTES of real examples at a time.

    Args:
        model: autoencoder.
        real: points (N, 2) or images (N, C, H, W), in [0, 1] or bytes, on any device.
        images: clamp reconstructions to [0, 1], and compare them by PSNR and SSIM, too.

    Returns:
        Posteriors (N, n), and name -> mean over the examples.
    """
    device = next(model.parameters()).device
    compared = {"mse": mse, "psnr": psnr, "ssim": ssim} if images else {"mse": mse}
    posteriors, sums = [], dict.fromkeys(compared, 0.0)
    for part in torch.split(real, max(1, PART_BYTES // (4 * real[0].numel()))):
        x = moved(part, device)
        x = to_float(x) if x.dtype == torch.uint8 else x
        x_r, q = reconstruct(model, x)
        x_r = x_r.clamp(0, 1) if images else x_r
        posteriors.append(q)
        for name, measure in compared.items():
            sums[name] += len(x) * float(measure(x, x_r))
    q = Gaussian(*(torch.cat(parts) for parts in zip(*posteriors, strict=True)))
    return q, {name: value / len(real) for name, value in sums.items()}


def evaluate_features(real: Tensor, fake: Tensor, network: str) -> dict[str, Any]:
    """Return the measures between features of test images and of generated images.

    Args:
        real: (N, F).
        fake: (N, F).
        network: after which each is named; only the Fréchet distance of "inception" is called fid.

    Returns:
        Fréchet distance, precision, recall, kernel distance, density and coverage, name -> value.
        They are NaN where a generated image is not finite, and None where there are too few images;
        "not_measured" then holds name -> reason.
    """
    name, count = network.replace("-", "_"), min(len(real), len(fake))
    distance = "fid" if network == "inception" else f"frechet_{name}"
    needed = {"precision": 4, "recall": 4, "kid": 2, "density": 6, "coverage": 6}
    least = {distance: 2} | {f"{measure}_{name}": number for measure, number in needed.items()}
    values: dict[str, float | None] = dict.fromkeys(least, math.nan)
    if bool(fake.isfinite().all()):
        values = dict.fromkeys(least)
        if count >= 2:
            values[distance] = float(frechet_distance(*moments(real), *moments(fake)))
            values[f"kid_{name}"] = kernel_distance(real, fake)
        if count >= 4:
            found = precision_recall(real, fake)
            values |= {f"precision_{name}": found.precision, f"recall_{name}": found.recall}
        if count >= 6:
            balls = density_coverage(real, fake)
            values |= {f"density_{name}": balls.density, f"coverage_{name}": balls.coverage}
    missing = [measure for measure, value in values.items() if value is None]
    reasons = {measure: too_few(least[measure], count) for measure in missing}
    return {"feature_samples": len(real), **values} | ({"not_measured": reasons} if reasons else {})


def too_few(needed: int, found: int) -> str:
    """Return the reason why a measure is missing, where there are too few images."""
    return f"needs at least {needed} images, got {found}"


def evaluate_points(real: Tensor, fake: Tensor, data: ToyData) -> dict[str, Any]:
    """Return metrics of generated points against real ones.

    Args:
        real: (N, 2).
        fake: (N, 2).
        data: says the bounds of the histogram and the modes.

    Returns:
        Name -> value. "outside" is the share of points that the histogram misses. If it misses all,
        the divergences are None, and "not_measured" holds name -> reason.
    """
    low, high = data.density.extent
    inside = ((fake >= low) & (fake <= high)).all(1)
    metrics: dict[str, Any] = {"outside": float((~inside).float().mean())}
    if bool(inside.any()):
        metrics |= histogram_divergences(real, fake, data.density.extent)._asdict()
    else:
        reason = f"no generated point lies inside the histogram of {data.density.extent}²"
        metrics |= dict.fromkeys(Divergences._fields)
        metrics["not_measured"] = dict.fromkeys(Divergences._fields, reason)
    if data.density.centers is not None:
        metrics["modes_found"] = modes_found(fake, data.density.centers, radius=(high - low) / 20)
        metrics["modes"] = len(data.density.centers)
    return metrics
