"""The AS-Distance between two batches of posteriors, Eqs. 3-6 of AS-IntroVAE, and the kernels it is made of."""

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor

from asintrovae.gaussian import full_precision

LOG_2PI = math.log(2 * math.pi)
KERNELS = {"mean": ("lebesgue", "mean"), "product": ("lebesgue", "product"), "prior": ("prior", "product")}
ESTIMATORS = ("v", "u")
LN_2 = math.log(2)
TILE = {"cpu": 2**17, "cuda": 2**22}
"""Numbers in one of the four arrays that `as_distance` works in: on a CPU as many per thread as stay in its cache."""


def log_normal(x: Tensor, var: Tensor) -> Tensor:
    """Elementwise log-density in nats of N(0, var) at x."""
    return -0.5 * (x.square() / var + var.log() + LOG_2PI)


def log_axis_kernel(mu_a: Tensor, var_a: Tensor, mu_b: Tensor, var_b: Tensor, weight: str) -> Tensor:
    """Log of ∫ w(z) N(z; mu_a, var_a) N(z; mu_b, var_b) dz for one latent axis, elementwise over broadcast inputs."""
    var_sum = var_a + var_b
    log_k = log_normal(mu_a - mu_b, var_sum)  # Eq. 6, one axis, its lost exp put back
    if weight == "prior":  # Eqs. 3 and 5 as written: the product of the two densities is again a Gaussian, met by p(z)
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
    Returns (N, M), at least float32. Expected likelihood / probability product kernel: Jebara, Kondor & Howard 2004.
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
        return log_k if log else log_k.clamp(max=_largest_log(log_k.dtype)).exp()
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
    Returns a scalar. Raises ValueError as the kernel does, and for a batch too small for the estimator.
    """
    _check_batches(r=(mu_r, var_r), g=(mu_g, var_g))
    _check_choice("kernel", kernel, tuple(KERNELS))
    _check_choice("estimator", estimator, ESTIMATORS)
    counts = (len(mu_r), len(mu_g))
    if estimator == "u" and min(counts) < 2:
        raise ValueError(f"mu_{'rg'[counts.index(1)]} holds 1 example: estimator='u' needs at least 2; use estimator='v'")
    dtype = reduce(torch.promote_types, (t.dtype for t in (mu_r, var_r, mu_g, var_g)), torch.float32)
    mean, var = torch.cat((mu_r, mu_g)).to(dtype), torch.cat((var_r, var_g)).to(dtype)  # (N + M, n)
    log_scale = None
    if kernel == "product":
        log_scale = mean.new_zeros(len(mean))
    elif kernel == "prior":
        mean, var, log_scale = _with_half_the_prior(mean, var)
    distance: Tensor = _PairSum.at_this_level(mean, var, log_scale, counts, estimator)[0]
    return distance


def _with_half_the_prior(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (N, n) and log-scales (N,) of the scaled Gaussians q(z) sqrt(p(z)), of which two hold all of p(z)."""
    log_axes = 0.25 * math.log(2 / math.pi) - 0.5 * ((2 + var).log() + mean.square() / (2 + var))
    half_var = torch.where(var > 0, 1 / (0.5 + 1 / var), var)  # what is no variance stays as it is, to be named
    return 2 * mean / (2 + var), half_var, log_axes.sum(-1)


class _PairSum(torch.autograd.Function):
    """D as one sum over the pairs of all N + M examples, and in the same pass its gradient.

    D is a scalar, so its gradient is known up to a factor when D is: it is formed while the numbers of a pair are in the
    cache, and kept. Pairs are never stored, and a backward pass that computes them again is not needed.
    The kernel is exp(s_i + s_j) Π_d N(μ_d - μ'_d; 0, λ_d + λ'_d) with log-scales s, or without them the "mean" kernel.
    """

    @staticmethod
    def at_this_level(
        mean: Tensor, var: Tensor, log_scale: Tensor | None, counts: tuple[int, int], estimator: str, keep: bool = False
    ) -> tuple[Tensor, ...]:
        """D, and its gradients where this level of torch.func, or one outside of it (`keep`), will ask for them."""
        keep = keep or (torch.is_grad_enabled() and (mean.requires_grad or var.requires_grad))
        found: tuple[Tensor, ...] = _PairSum.apply(mean, var, log_scale, counts, estimator, keep)  # type: ignore[no-untyped-call]
        return found

    @staticmethod
    def forward(
        mean: Tensor, var: Tensor, log_scale: Tensor | None, counts: tuple[int, int], estimator: str, keep: bool
    ) -> tuple[Tensor, ...]:
        """(*, N + M, n), (*, N + M, n), (*, N + M) -> D, (*,), and its gradients."""
        _check_positive(var, counts[0])
        *outer, count, n = mean.shape
        # In powers of 2, faster than those of e: with λ now 2 ln2 λ, N(δ; 0, λ) = sqrt(ln2 / π) λ^(-1/2) 2^(-δ² / λ)
        z = torch.stack((mean, 2 * LN_2 * var)).reshape(2, -1, count, n).mT.contiguous()  # (2, L, n, N + M)
        log_2 = None
        if log_scale is not None:
            log_2 = (log_scale / LN_2 + 0.25 * n * math.log2(LN_2 / math.pi)).reshape(-1, count)
        value, d_z, d_log_2 = _sum_over_pairs(z, log_2, counts, estimator, keep)
        scale = math.sqrt(2 * LN_2) / n if log_2 is None else 1.0
        found = [(value * scale).reshape(outer)]
        if keep:
            d_mean, d_var = d_z.mT.reshape(2, *outer, count, n)
            found += [d_mean * (2 * LN_2 * scale), d_var * (-LN_2 * scale)]
        if keep and log_2 is not None:
            found.append(d_log_2.reshape(*outer, count))
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the gradients."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *second: Tensor | None) -> tuple[Tensor | None, ...]:
        """The kept gradients, times that of D, (*,)."""
        if any(part is not None for part in second):
            raise RuntimeError("as_distance is differentiable once; for more build D from expected_likelihood_kernel")
        if gradient is None:
            return (None,) * 6
        parts = (gradient.view(*gradient.shape, *[1] * (kept.dim() - gradient.dim())) * kept for kept in ctx.saved_tensors)
        return (*parts, None, None, None, None)[:6]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *given: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The mapped axis becomes one more leading axis."""
        batched = (
            t if t is None else t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in zip(given[:3], in_dims, strict=False)
        )
        found = _PairSum.at_this_level(*batched, *given[3:])
        found = found if given[-1] else found[:1]
        return found, (0,) * len(found)


def _sum_over_pairs(
    z: Tensor, log_2: Tensor | None, counts: tuple[int, int], estimator: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ W_ij k_ij over i <= j of each of L sets of examples, tile by tile, and if `keep` the sums its gradient is made of.

    z: (2, L, n, S), means and scaled variances. log_2: (L, S), log-scales to the base 2, or None for the "mean" kernel.
    Returns (L,), (2, L, n, S), (L, S).
    """
    _, sets, n, count = z.shape
    pairs = max(1, (TILE["cuda"] if z.is_cuda else TILE["cpu"] * torch.get_num_threads()) // n)
    if sets > 1 and sets * count**2 > pairs:
        parts = zip(z.split(1, 1), [None] * sets if log_2 is None else log_2.split(1), strict=True)
        values, slopes, scales = zip(*(_sum_over_pairs(*part, counts, estimator, keep) for part in parts), strict=True)
        return torch.cat(values), torch.cat(slopes, 1), torch.cat(scales)
    value, d_rows, d_columns, d_log_2 = z.new_zeros(sets), torch.zeros_like(z), torch.zeros_like(z), z.new_zeros(sets, count)
    work = z.new_empty(4 * sets * n * min(pairs, count**2))
    for i, height, width in _strips(count, pairs):
        weights = _pair_weights(counts, estimator, i, height, work)
        a = z.narrow(-1, i, height).unsqueeze(-1)
        for j in range(i, count, width):
            size = min(width, count - j)
            b = z.narrow(-1, j, size).unsqueeze(-2)
            arrays = work[: 4 * sets * n * height * size].view(4, sets, n, height, size)
            scales = None if log_2 is None else log_2[:, i : i + height, None] + log_2[:, None, j : j + size]
            k, live = _weighted_kernel(arrays, a, b, weights.narrow(1, j, size), scales)
            value += k.flatten(1).sum(1)
            if not keep:
                continue
            if log_2 is not None:
                d_log_2[:, i : i + height] += live.sum((1, -1))
                d_log_2[:, j : j + size] += live.sum((1, -2))
            slopes = _slopes(arrays, live)
            d_rows.narrow(-1, i, height).add_(slopes.sum(-1))
            d_columns.narrow(-1, j, size).add_(slopes.sum(-2))
    return value, torch.stack((d_columns[0] - d_rows[0], d_columns[1] + d_rows[1])), d_log_2


def _strips(count: int, pairs: int) -> Iterator[tuple[int, int, int]]:
    """First row, height and width of tiles of at most `pairs` pairs that cover i <= j < count, strip of rows after strip."""
    i, low = 0, min(8, math.isqrt(pairs))
    while i < count:
        height = min(max(pairs // (count - i), low), count - i)
        yield i, height, pairs // height
        i += height


def _pair_weights(counts: tuple[int, int], estimator: str, i: int, height: int, like: Tensor) -> Tensor:
    """W of D = Σ W_ij k_ij over i <= j, rows i to i + height: (height, N + M). Pairs i < j stand for themselves and for j, i."""
    N, M = counts
    u = estimator == "u"
    weights = like.new_full((height, N + M), -2 / (N * M))
    of_r = min(max(N - i, 0), height)
    weights[:of_r, :N] = 2 / (N * (N - u))
    weights[of_r:, N:] = 2 / (M * (M - u))
    weights.triu_(i + u)
    weights.diagonal(i).mul_(0.5)
    return weights


def _weighted_kernel(arrays: Tensor, a: Tensor, b: Tensor, weights: Tensor, log_2: Tensor | None) -> tuple[Tensor, Tensor]:
    """W k of a tile, and the same without what is held at its limit: (L, n, I, J) by axis, or (L, 1, I, J).

    Leaves λ^(-1/2), -, u and u² in `arrays`, with u = δ λ^(-1/2).
    """
    (a_mean, a_var), (b_mean, b_var), (r, k, u, square) = a, b, arrays
    torch.add(a_var, b_var, out=r).rsqrt_()
    torch.sub(a_mean, b_mean, out=u).mul_(r)
    torch.mul(u, u, out=square)
    if log_2 is None:
        torch.exp2(square, out=k)
        torch.div(r, k, out=k).mul_(weights)
        return k, k
    groups = r.unflatten(1, (-1, math.gcd(r.shape[1], 4)))  # a logarithm costs as much as ten products; four stay in range
    log_2 = (log_2 - square.sum(1) + groups.prod(2).log2_().sum(1)).unsqueeze(1)
    limit = _largest_log(log_2.dtype) / LN_2
    weighted = log_2.clamp(max=limit).exp2_().mul_(weights)
    return weighted, weighted.masked_fill(log_2 > limit, 0)


def _slopes(arrays: Tensor, k: Tensor) -> Tensor:
    """(2, L, n, I, J): λ^(-1/2) u k and (1 - 2 ln2 u²) k / λ, in the place of u and u²."""
    r, weighted, u, square = arrays
    torch.mul(r, k, out=weighted)
    u.mul_(weighted)
    torch.addcmul(weighted, weighted, square, value=-2 * LN_2, out=square).mul_(r)
    return arrays[2:]


def _largest_log(dtype: torch.dtype) -> float:
    """Log of the largest kernel, half of the dtype's range: 44 in float32, where k = 1.8e19, so that gradients stay in it too."""
    return math.log(torch.finfo(dtype).max) / 2


def _check_positive(var: Tensor, count_r: int) -> None:
    """Refuse variances of both batches, (*, N + M, n), that are none; NaN passes. Looking would stall a GPU."""
    if var.is_cpu and bool((var <= 0).any()):
        side = "r" if bool((var[..., :count_r, :] <= 0).any()) else "g"
        raise ValueError(f"var_{side} holds {var[var <= 0][0].item():.4g}: variances must be positive; pass q.var, not q.logvar")


def _check_batches(**batches: tuple[Tensor, Tensor]) -> None:
    """Means and variances of two batches, by the suffix of their parameters."""
    for side, (mu, var) in batches.items():
        if not (isinstance(mu, Tensor) and isinstance(var, Tensor)):
            raise ValueError(f"mu_{side} and var_{side} must be tensors, got {type(mu).__name__} and {type(var).__name__}")
        if mu.dim() != 2 or var.shape != mu.shape or 0 in mu.shape:
            raise ValueError(
                f"mu_{side} and var_{side} must share a non-empty shape (batch, latent axes), "
                f"got {tuple(mu.shape)} and {tuple(var.shape)}"
            )
    first, second = ((side, mu.shape[1]) for side, (mu, _) in batches.items())
    if first[1] != second[1]:
        raise ValueError(f"mu_{first[0]} has {first[1]} latent axes, mu_{second[0]} has {second[1]}: they must be equal")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")
