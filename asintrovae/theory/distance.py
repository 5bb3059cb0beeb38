"""The AS-Distance between two batches of posteriors, Eqs. 3-6 of AS-IntroVAE, and the kernels it is made of."""

import math
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from asintrovae.theory.gaussian import full_precision
from asintrovae.theory.tiled_distance import Options, PairSum, largest_log
from asintrovae.threads import torch_threads

LOG_2PI = math.log(2 * math.pi)
KERNELS = {
    "mean": ("lebesgue", "mean"),
    "product": ("lebesgue", "product"),
    "prior": ("prior", "product"),
}
ESTIMATORS = ("v", "u")


def log_normal(x: Tensor, var: Tensor) -> Tensor:
    """Elementwise log-density in nats of N(0, var) at x."""
    return -0.5 * (x.square() / var + var.log() + LOG_2PI)


def log_axis_kernel(
    mu_a: Tensor, var_a: Tensor, mu_b: Tensor, var_b: Tensor, weight: str
) -> Tensor:
    """Log of ∫ w(z) N(z; mu_a, var_a) N(z; mu_b, var_b) dz for one latent axis, elementwise over broadcast inputs."""
    var_sum = var_a + var_b
    log_k = log_normal(mu_a - mu_b, var_sum)  # Eq. 6, one axis, its lost exp put back
    if (
        weight == "prior"
    ):  # Eqs. 3 and 5 as written: the product of the two densities is again a Gaussian, met by p(z)
        mean = (mu_a * var_b + mu_b * var_a) / var_sum
        log_k = log_k + log_normal(mean, 1 + var_a * (var_b / var_sum))
    return log_k


def expected_likelihood_kernel(
    mu_a: Tensor,
    var_a: Tensor,
    mu_b: Tensor,
    var_b: Tensor,
    weight: Literal["lebesgue", "prior"] = "lebesgue",
    reduction: Literal["product", "mean"] = "product",
    log: bool = False,
) -> Tensor:
    """Gram matrix k(a_i, b_j) = ∫ w(z) a_i(z) b_j(z) dz of two batches of diagonal Gaussians.

    mu_a, var_a: (N, n), mu_b, var_b: (M, n), means and VARIANCES > 0; gradients reach all four. A log-variance in the
        place of a variance gives NaN where it is negative.
    weight: w = 1 ("lebesgue", Eq. 6 of AS-IntroVAE) or w = p(z) = N(0, I) ("prior", Eqs. 3 and 5 as they are written).
    reduction: "product" over the n axes, the integral itself, a density in z, which decays like (4π)^(-n/2);
        or "mean" over the axes of sqrt(2π) k_d, the form published as code. k_d is the integral over axis d alone,
        and the constant only keeps the published scale.
    log: return log k. The product of unit variances leaves the normal range of float32 near n = 70, its logarithm never does.
        Below that range k is 0, and it is held at the square root of the largest number (1.8e19); its gradient there is 0.
    Returns (N, M), at least float32; finite, as its gradients are, for means of up to 1e4 and variances of 1e-12 to 1e12.
    Expected likelihood / probability product kernel: Jebara, Kondor & Howard 2004.
    Raises ValueError for shapes that do not match and for unknown options.
    """
    _check_batches(a=(mu_a, var_a), b=(mu_b, var_b))
    _check_choice("weight", weight, ("lebesgue", "prior"))
    _check_choice("reduction", reduction, ("product", "mean"))
    # Latent axis first: sums over a leading axis of length 2 are several times faster than over a trailing one.
    a_mean, a_var = (full_precision(t).T.unsqueeze(2) for t in (mu_a, var_a))  # (n, N, 1)
    b_mean, b_var = (full_precision(t).T.unsqueeze(1) for t in (mu_b, var_b))  # (n, 1, M)
    log_axes = log_axis_kernel(a_mean, a_var, b_mean, b_var, weight)  # (n, N, M)
    if reduction == "product":
        log_k = log_axes.sum(0)
        return log_k if log else log_k.clamp(max=largest_log(log_k.dtype)).exp()
    log_axes = log_axes + 0.5 * LOG_2PI
    return log_axes.logsumexp(0) - math.log(len(log_axes)) if log else log_axes.exp().mean(0)


def as_distance(
    mu_r: Tensor,
    var_r: Tensor,
    mu_g: Tensor,
    var_g: Tensor,
    kernel: Literal["mean", "product", "prior"] = "mean",
    estimator: Literal["v", "u"] = "v",
) -> Tensor:
    """Adversarial similarity distance between two batches of posteriors (AS-IntroVAE, Eqs. 3, 5, 6).

    D = E k(r, r') + E k(g, g') - 2 E k(r, g): the squared L² distance between the aggregate posteriors Q_r and Q_g,
    which is a squared MMD. It is not a 2-Wasserstein distance.
    mu_r, var_r: (N, n), mu_g, var_g: (M, n), means and VARIANCES; gradients reach all four.
    kernel: "product" (w = 1, Eq. 6), "prior" (w = p(z), Eq. 3) or "mean" (per-axis mean, as published in code; it sees
        the n marginals only). See `expected_likelihood_kernel`.
    estimator: "v" takes all pairs (never negative but for rounding, biased upwards by the pairs i = i); "u" leaves
        those out (unbiased, may be negative, needs two examples on each side).
    Returns a scalar, at least float32; finite and differentiable where the kernel is. NaN in gives NaN out. On a CPU raises
    ValueError for variances that are not positive, elsewhere they give NaN. Raises ValueError as the kernel does, and for
    a batch too small for the estimator, RuntimeError for a second derivative.
    Pairs are taken in tiles (`tiled_distance`), so that beside some copies of the inputs memory does not grow with B.
    """
    _check_batches(r=(mu_r, var_r), g=(mu_g, var_g))
    _check_choice("kernel", kernel, tuple(KERNELS))
    _check_choice("estimator", estimator, ESTIMATORS)
    counts = (len(mu_r), len(mu_g))
    if estimator == "u" and min(counts) < 2:
        raise ValueError(
            f"mu_{'rg'[counts.index(1)]} holds 1 example: estimator='u' needs at least 2; use estimator='v'"
        )
    dtype = reduce(
        torch.promote_types, (t.dtype for t in (mu_r, var_r, mu_g, var_g)), torch.float32
    )
    log_scale = None
    with torch_threads(
        1
    ):  # shared, such small work would leave other threads waiting at full speed
        mean, var = torch.cat((mu_r, mu_g)).to(dtype), torch.cat((var_r, var_g)).to(dtype)
        if kernel == "prior":
            mean, var, log_scale = _with_half_the_prior(mean, var)
    options = Options(KERNELS[kernel][1], counts, estimator)
    return PairSum.call(mean, var, log_scale, options)[0]


def _with_half_the_prior(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (N, n), log-scales (N,) of the scaled Gaussians q(z) sqrt(p(z)): the product of two has all of p(z).

    With w = 1 they have the kernel that the q have with w = p(z).
    """
    log_axes = 0.25 * math.log(2 / math.pi) - 0.5 * ((2 + var).log() + mean.square() / (2 + var))
    half_var = torch.where(
        var > 0, 1 / (0.5 + 1 / var), var
    )  # what is no variance stays as it is, to be named
    return 2 * mean / (2 + var), half_var, log_axes.sum(-1)


def _check_batches(**batches: tuple[Tensor, Tensor]) -> None:
    """Means and variances of two batches, by the suffix of their parameters."""
    for side, (mu, var) in batches.items():
        if not (isinstance(mu, Tensor) and isinstance(var, Tensor)):
            raise ValueError(
                f"mu_{side} and var_{side} must be tensors, got {type(mu).__name__} and {type(var).__name__}"
            )
        if mu.dim() != 2 or var.shape != mu.shape or 0 in mu.shape:
            raise ValueError(
                f"mu_{side} and var_{side} must share a non-empty shape (batch, latent axes), "
                f"got {tuple(mu.shape)} and {tuple(var.shape)}"
            )
    first, second = ((side, mu.shape[1]) for side, (mu, _) in batches.items())
    if first[1] != second[1]:
        raise ValueError(
            f"mu_{first[0]} has {first[1]} latent axes, mu_{second[0]} has {second[1]}: they must be equal"
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")
