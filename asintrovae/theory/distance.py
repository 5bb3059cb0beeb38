"""The AS-Distance between two batches of posteriors (Eqs. 3-6 of AS-IntroVAE) and its kernels."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from asintrovae.theory.gaussian import full_precision
from asintrovae.theory.tiled_distance import Options, PairSum, largest_log
from asintrovae.threads import one_thread

LOG_2PI = math.log(2 * math.pi)
KERNELS = {
    "mean": ("lebesgue", "mean"),
    "product": ("lebesgue", "product"),
    "prior": ("prior", "product"),
    "tempered": ("lebesgue", "tempered"),
}
"""Name of the kernel of D -> weight and reduction of `expected_likelihood_kernel`."""
ESTIMATORS = ("v", "u")


def log_normal(x: Tensor, var: Tensor) -> Tensor:
    """Return the elementwise log-density in nats of N(0, var) at x."""
    return -0.5 * (x.square() / var + var.log() + LOG_2PI)


def log_axis_kernel(
    mu_a: Tensor, var_a: Tensor, mu_b: Tensor, var_b: Tensor, weight: str
) -> Tensor:
    """Return log ∫ w(z) N(z; mu_a, var_a) N(z; mu_b, var_b) dz for one latent axis, elementwise.

    Args:
        mu_a: means, of a shape that broadcasts with the others.
        var_a: variances, > 0.
        mu_b: means.
        var_b: variances, > 0.
        weight: "lebesgue", w = 1, or "prior", w = N(0, 1).
    """
    var_sum = var_a + var_b
    log_k = log_normal(mu_a - mu_b, var_sum)  # Eq. 6, one axis, its lost exp put back
    if weight == "lebesgue":
        return log_k
    # Eqs. 3 and 5 as written: the product of two densities is a scaled Gaussian, met by p(z)
    mean = (mu_a * var_b + mu_b * var_a) / var_sum
    var = var_a * (var_b / var_sum)
    return log_k + log_normal(mean, 1 + var)


def expected_likelihood_kernel(
    mu_a: Tensor,
    var_a: Tensor,
    mu_b: Tensor,
    var_b: Tensor,
    weight: Literal["lebesgue", "prior"] = "lebesgue",
    reduction: Literal["product", "mean", "tempered"] = "product",
    log: bool = False,
) -> Tensor:
    """Return the Gram matrix k(a_i, b_j) = ∫ w(z) a_i(z) b_j(z) dz of two batches of Gaussians.

    This is the expected likelihood or probability product kernel (Jebara, Kondor & Howard 2004).

    Args:
        mu_a: means (N, n); gradients reach all four tensors.
        var_a: VARIANCES (N, n), > 0. A log-variance in the place of a variance gives NaN where it
            is negative.
        mu_b: means (M, n).
        var_b: VARIANCES (M, n), > 0.
        weight: w = 1 ("lebesgue", Eq. 6 of AS-IntroVAE) or w = p(z) = N(0, I) ("prior", Eqs. 3 and
            5 as they are written).
        reduction: "product" over the n axes, the integral itself, a density in z, which decays
            like (4π)^(-n/2); "mean" over the axes of sqrt(2π) k_d, the form published as code; or
            "tempered", the n-th root of the product, which is the geometric mean of the k_d. k_d is
            the integral over axis d alone, and the constant only keeps the published scale.
        log: return log k. The product of unit variances leaves the normal range of float32 near
            n = 70, its logarithm never does. Below that range k is 0, and it is held at the square
            root of the largest number (1.8e19); its gradient there is 0.

    Returns:
        (N, M), at least float32; finite, as its gradients are, for means of up to 1e4 and variances
        of 1e-12 to 1e12.

    Raises:
        ValueError: for shapes that do not match and for unknown options.

    Example:
        >>> mu, var = torch.zeros(2, 1), torch.ones(2, 1)
        >>> expected_likelihood_kernel(mu, var, mu, var)  # 1 / sqrt(4π)
        tensor([[0.2821, 0.2821],
                [0.2821, 0.2821]])
    """
    _check_batches(a=(mu_a, var_a), b=(mu_b, var_b))
    _check_choice("weight", weight, ("lebesgue", "prior"))
    _check_choice("reduction", reduction, ("product", "mean", "tempered"))
    # Latent axis first: a sum over a leading axis of length 2 is several times faster.
    a_mean, a_var = (full_precision(t).T.unsqueeze(2) for t in (mu_a, var_a))  # (n, N, 1)
    b_mean, b_var = (full_precision(t).T.unsqueeze(1) for t in (mu_b, var_b))  # (n, 1, M)
    log_axes = log_axis_kernel(a_mean, a_var, b_mean, b_var, weight)  # (n, N, M)
    if reduction != "mean":
        log_k = log_axes.sum(0) if reduction == "product" else log_axes.mean(0)
        return log_k if log else log_k.clamp(max=largest_log(log_k.dtype)).exp()
    log_axes = log_axes + 0.5 * LOG_2PI
    return log_axes.logsumexp(0) - math.log(len(log_axes)) if log else log_axes.exp().mean(0)


def as_distance(
    mu_r: Tensor,
    var_r: Tensor,
    mu_g: Tensor,
    var_g: Tensor,
    kernel: Literal["mean", "product", "prior", "tempered"] = "mean",
    estimator: Literal["v", "u"] = "v",
    bandwidth: float | Sequence[float] = 0.0,
) -> Tensor:
    """Return the adversarial similarity distance of two batches (AS-IntroVAE, Eqs. 3, 5, 6).

    D = E k(r, r') + E k(g, g') - 2 E k(r, g): the squared L² distance between the aggregate
    posteriors Q_r and Q_g, which is a squared MMD. It is not a 2-Wasserstein distance. Pairs are
    taken in tiles (`tiled_distance`), so that beside some copies of the inputs memory does not grow
    with the batch.

    Args:
        mu_r: means (N, n); gradients reach all four tensors.
        var_r: VARIANCES (N, n), > 0.
        mu_g: means (M, n).
        var_g: VARIANCES (M, n), > 0.
        kernel: "product" (w = 1, Eq. 6), "prior" (w = p(z), Eq. 3), "mean" (per-axis mean, as
            published in code; it sees the n marginals only) or "tempered" (n-th root of "product",
            which sees dependence between axes and keeps its scale as n grows). See
            `expected_likelihood_kernel`. The tempered kernel is positive definite where all
            posteriors share their variances; elsewhere D is no squared distance.
        estimator: "v" takes all pairs (biased upwards by the pairs i = i; never negative, but for
            rounding and for variances that differ under the tempered kernel); "u" leaves those out
            (unbiased, may be negative, needs two examples on each side).
        bandwidth: h ≥ 0 takes the place of λ + λ' by λ + λ' + h in every kernel, which convolves
            each posterior, and so Q_r and Q_g, with N(0, h/2 I); the weight w of "prior" stays
            p(z). With h > 0 variances of 0 are allowed: D then compares two sets of points. Several
            bandwidths give the mean of their D.

    Returns:
        A scalar, at least float32; finite and differentiable where the kernel is. NaN in gives NaN
        out. Variances that are not positive give NaN on a GPU.

    Raises:
        ValueError: for shapes that do not match, for unknown options, for bandwidths that are not
            finite numbers of at least 0, for a batch too small for the estimator, and on a CPU for
            variances that are not positive.
        RuntimeError: for a second derivative.

    Example:
        >>> mu, var = torch.zeros(4, 2), torch.ones(4, 2)
        >>> as_distance(mu, var, mu + 9, var)  # so far apart that D = 2 k(a, a)
        tensor(1.4142)
    """
    _check_batches(r=(mu_r, var_r), g=(mu_g, var_g))
    _check_choice("kernel", kernel, tuple(KERNELS))
    _check_choice("estimator", estimator, ESTIMATORS)
    bandwidths = _checked_bandwidths(bandwidth)
    counts = (len(mu_r), len(mu_g))
    if estimator == "u" and min(counts) < 2:
        side = "rg"[counts.index(1)]
        needs = "estimator='u' needs at least 2; use estimator='v'"
        raise ValueError(f"mu_{side} holds 1 example: {needs}")
    given = (mu_r, var_r, mu_g, var_g)
    options = Options(KERNELS[kernel][1], counts, estimator)
    distances = [_smoothed_distance(*given, h, kernel, options) for h in bandwidths]
    return distances[0] if len(distances) == 1 else torch.stack(distances).mean()


def _smoothed_distance(
    mu_r: Tensor,
    var_r: Tensor,
    mu_g: Tensor,
    var_g: Tensor,
    bandwidth: float,
    kernel: str,
    options: Options,
) -> Tensor:
    """Return `as_distance` for one bandwidth."""
    dtypes = (t.dtype for t in (mu_r, var_r, mu_g, var_g))
    dtype = reduce(torch.promote_types, dtypes, torch.float32)
    log_scale = None
    # shared, such small work would leave other threads waiting at full speed
    with one_thread(mu_r):
        mean, var = torch.cat((mu_r, mu_g)).to(dtype), torch.cat((var_r, var_g)).to(dtype)
        if bandwidth > 0:
            # a negative number is no variance and stays as it is, so that the error names it
            var = torch.where(var >= 0, var + bandwidth / 2, var)
        if kernel == "prior":
            mean, var, log_scale = _with_half_the_prior(mean, var)
    return PairSum.call(mean, var, log_scale, options)[0]


def _with_half_the_prior(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return means and variances (N, n), log-scales (N,) of the scaled Gaussians q(z) sqrt(p(z)).

    The product of two has all of p(z): with w = 1 they have the kernel of the q with w = p(z).
    """
    log_axes = 0.25 * math.log(2 / math.pi) - 0.5 * ((2 + var).log() + mean.square() / (2 + var))
    # a number that is no variance stays as it is, so that the error names it
    half_var = torch.where(var > 0, 1 / (0.5 + 1 / var), var)
    return 2 * mean / (2 + var), half_var, log_axes.sum(-1)


def _check_batches(**batches: tuple[Tensor, Tensor]) -> None:
    """Raise ValueError for means and variances, by the suffix of their parameters, of no batch."""
    for side, (mu, var) in batches.items():
        names = f"mu_{side} and var_{side} must"
        if not (isinstance(mu, Tensor) and isinstance(var, Tensor)):
            found = f"{type(mu).__name__} and {type(var).__name__}"
            raise ValueError(f"{names} be tensors, got {found}")
        if mu.dim() != 2 or var.shape != mu.shape or 0 in mu.shape:
            found = f"{tuple(mu.shape)} and {tuple(var.shape)}"
            wanted = "a non-empty shape (batch, latent axes)"
            raise ValueError(f"{names} share {wanted}, got {found}")
    (a, axes_a), (b, axes_b) = ((side, mu.shape[1]) for side, (mu, _) in batches.items())
    if axes_a != axes_b:
        raise ValueError(
            f"mu_{a} has {axes_a} latent axes, mu_{b} has {axes_b}: they must be equal"
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def _checked_bandwidths(bandwidth: float | Sequence[float]) -> tuple[float, ...]:
    """Return the bandwidths as a tuple; raise ValueError where one is no finite number >= 0."""
    bandwidths = tuple(bandwidth) if isinstance(bandwidth, Sequence) else (bandwidth,)
    if not bandwidths:
        raise ValueError("bandwidth=() is empty; give one number or more, 0 for none")
    for h in bandwidths:
        if not (isinstance(h, (int, float)) and 0 <= h < math.inf):
            raise ValueError(f"bandwidth={bandwidth!r}: {h!r} is not a finite number of at least 0")
    return bandwidths
