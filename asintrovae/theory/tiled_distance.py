"""A weighted sum of the kernel over all pairs of posteriors and its gradient, tile by tile: the arithmetic of `as_distance`.

The whole Gram matrix by axes would be N × M × n numbers, several times over, and on a CPU eager code spends its time on
moving them. A tile stays in the cache. It is one tile for small batches, and many where there are more pairs.

On a CPU one thread computes a tile, and threads share the tiles. If all threads shared each
operation of a tile, they would wait for each other fifteen times a tile, and on a busy machine
each time for the slowest. Measured on two processors as the time with two threads over that with
one, for B = 32 to 1024 and n = 2 to 256: shared tiles take 0.5 to 1.2, beside other programs 0.35
to 1.25; shared operations 0.5 to 1.7 and 2 to 24.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from asintrovae.threads import torch_threads

T = TypeVar("T")
Sums = tuple[Tensor, Tensor, Tensor, Tensor]
Strip = tuple[int, int, int]

LN_2 = math.log(2)
TILE = {"cpu": 2**17, "shared": 2**19, "cuda": 2**22}
"""Numbers, pairs times axes, in each of the four arrays of a tile; "shared" where threads take turns
at Python's lock between operations, so that longer ones are faster although they leave the cache."""
TILES_PER_THREAD = 4
"""Tiles from which on another thread is faster than none."""


class PairSum(torch.autograd.Function):
    """D as one sum over the pairs of all N + M examples, and in the same pass its gradient.

    D is a scalar, so its gradient is known up to a factor as soon as D is: it is formed while a pair's numbers are at hand,
    and kept. Nothing of the size of the pairs is, and the backward pass has nothing to compute again.
    The kernel is exp(s_i + s_j) Π_d N(μ_d - μ'_d; 0, λ_d + λ'_d), with log-scales s of the "prior" kernel, or "mean".
    """

    @staticmethod
    def call(
        mean: Tensor,
        var: Tensor,
        log_scale: Tensor | None,
        reduction: str,
        counts: tuple[int, int],
        estimator: str,
        keep: bool = False,
    ) -> tuple[Tensor, ...]:
        """D, and its gradients where this level of torch.func, or one outside of it (`keep`), can ask for them."""
        keep = keep or (torch.is_grad_enabled() and (mean.requires_grad or var.requires_grad))
        given = (mean, var, log_scale, reduction, counts, estimator, keep)
        found: tuple[Tensor, ...] = PairSum.apply(*given)  # type: ignore[no-untyped-call]
        return found

    @staticmethod
    def forward(
        mean: Tensor,
        var: Tensor,
        log_scale: Tensor | None,
        reduction: str,
        counts: tuple[int, int],
        estimator: str,
        keep: bool,
    ) -> tuple[Tensor, ...]:
        """(*, N + M, n), (*, N + M, n), (*, N + M) -> D, (*,), and if `keep` its gradients."""
        with torch_threads(1) as available:
            check_no_variance(var, counts[0])
            *outer, count, n = mean.shape
            # Powers of 2 cost a third of those of e. With 2 ln2 λ in the place of λ,
            # N(δ; 0, λ) = sqrt(ln2 / π) λ^(-1/2) 2^(-δ² / λ).
            z = (
                torch.stack((mean, 2 * LN_2 * var)).reshape(2, -1, count, n).mT.contiguous()
            )  # (2, L, n, N + M)
            log_2 = None if log_scale is None else (log_scale / LN_2).reshape(-1, count)
            constant = 0.5 * n * math.log2(LN_2 / math.pi) if reduction == "product" else None
            threads = 1 if z.is_cuda else available
            value, d_rows, d_columns, d_scale = sum_over_pairs(
                z, log_2, constant, counts, estimator, keep, threads
            )
            factor = math.sqrt(2 * LN_2) / n if constant is None else 1.0
            found = [(value * factor).reshape(outer)]
            if keep:
                slopes = (
                    (d_columns[0] - d_rows[0]) * (2 * LN_2 * factor),
                    (d_columns[1] + d_rows[1]) * (-LN_2 * factor),
                )
                found += [slope.mT.reshape(mean.shape) for slope in slopes]
            if keep and log_2 is not None:
                found.append(d_scale.reshape(*outer, count))
            return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the gradients."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor | None, *second: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The kept gradients, times that of D, (*,)."""
        if any(part is not None for part in second):
            raise RuntimeError(
                "as_distance is differentiable once; for more build D from expected_likelihood_kernel"
            )
        if gradient is None:
            return (None,) * 7
        with torch_threads(1):
            axes = [[1] * (kept.dim() - gradient.dim()) for kept in ctx.saved_tensors]
            parts = [
                gradient.view(*gradient.shape, *ones) * kept
                for ones, kept in zip(axes, ctx.saved_tensors, strict=True)
            ]
        return (*parts, *[None] * 5)[:7]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *given: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The mapped axis becomes one more leading axis."""

        def in_front(t: Tensor, dim: int | None) -> Tensor:
            return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

        mean, var, log_scale, *options = given
        if log_scale is not None:
            log_scale = in_front(log_scale, in_dims[2])
        found = PairSum.call(
            in_front(mean, in_dims[0]), in_front(var, in_dims[1]), log_scale, *options
        )
        return found, (0,) * len(found)


# torch looks at the signature in every call, which costs as much as fifteen operations on small tensors
PairSum.forward.__signature__ = inspect.signature(PairSum.forward)  # type: ignore[attr-defined]


def sum_over_pairs(
    z: Tensor,
    log_2: Tensor | None,
    constant: float | None,
    counts: tuple[int, int],
    estimator: str,
    keep: bool,
    threads: int,
) -> Sums:
    """Σ W_ij k_ij over i <= j for each of L sets of S = N + M examples, and if `keep` the sums that its gradient is made of.

    z: (2, L, n, S), means and scaled variances. log_2: (L, S), log-scales to the base 2, if any; `constant` is added to
    those of a pair, None for the "mean" kernel.
    Returns (L,), sums over the rows and over the columns of a pair's derivatives, (2, L, n, S), and over both, (L, S).
    """
    _, sets, n, count = z.shape
    threads = max(1, min(threads, sets * n * count**2 // (2 * TILES_PER_THREAD * TILE["shared"])))
    pairs = max(1, TILE["cuda" if z.is_cuda else "shared" if threads > 1 else "cpu"] // n)
    together = max(1, pairs // count**2)
    places = list(strips(count, pairs))
    over = functools.partial(
        over_strips, constant=constant, counts=counts, estimator=estimator, keep=keep
    )
    if sets > together:
        scales = itertools.repeat(None) if log_2 is None else torch.split(log_2, together)
        groups = list(zip(torch.split(z, together, 1), scales, strict=False))
        found = in_threads(lambda group: over(*group, places=places), groups, threads)
        value, d_rows, d_columns, d_scale = map(torch.cat, zip(*found, strict=True), (0, 1, 1, 0))
        return value, d_rows, d_columns, d_scale
    shares = min(threads, len(places))
    dealt = [places[first::shares] for first in range(shares)]
    found = in_threads(lambda share: over(z, log_2, places=share), dealt, threads)
    value, d_rows, d_columns, d_scale = (
        sum(parts[1:], parts[0]) for parts in zip(*found, strict=True)
    )
    return value, d_rows, d_columns, d_scale


def in_threads(work: Callable[[T], Sums], tasks: Sequence[T], threads: int) -> list[Sums]:
    """Return work(task) for each task, in order; at most `threads` threads compute them."""
    threads = min(threads, len(tasks))
    if threads == 1:
        return [work(task) for task in tasks]
    inference = torch.is_inference_mode_enabled()

    def alone(task: T) -> Sums:
        with torch.inference_mode(inference), torch.no_grad():  # these, too, belong to a thread
            return work(task)

    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(alone, tasks))


def over_strips(
    z: Tensor,
    log_2: Tensor | None,
    constant: float | None,
    counts: tuple[int, int],
    estimator: str,
    keep: bool,
    places: Sequence[Strip],
) -> Sums:
    """Return the part of `sum_over_pairs` that these strips of rows add, tile by tile."""
    _, sets, n, count = z.shape
    values = []
    d_rows, d_columns, d_scale = torch.zeros_like(z), torch.zeros_like(z), z.new_zeros(sets, count)
    work = z.new_empty(
        4 * sets * n * max(height * min(width, count) for _, height, width in places)
    )
    for i, height, width in places:
        weights = pair_weights(counts, estimator, i, height, work)
        a, value = z.narrow(-1, i, height).unsqueeze(-1), z.new_zeros(sets)
        for j in range(i, count, width):
            size = min(width, count - j)
            b = z.narrow(-1, j, size).unsqueeze(-2)
            arrays = work[: 4 * sets * n * height * size].view(4, sets, n, height, size)
            logs: Tensor | float | None = constant
            if log_2 is not None and constant is not None:
                logs = log_2[:, i : i + height, None] + (log_2[:, None, j : j + size] + constant)
            k, live = weighted_kernel(arrays, a, b, weights.narrow(1, j, size), logs)
            value += k.flatten(1).sum(1)
            if not keep:
                continue
            if log_2 is not None:
                d_scale.narrow(-1, i, height).add_(live.sum((1, -1)))
                d_scale.narrow(-1, j, size).add_(live.sum((1, -2)))
            terms = slopes_of(arrays, live)
            d_rows.narrow(-1, i, height).add_(terms.sum(-1))
            d_columns.narrow(-1, j, size).add_(terms.sum(-2))
        values.append(value)
    return torch.stack(values).sum(0), d_rows, d_columns, d_scale


def strips(count: int, pairs: int) -> Iterator[Strip]:
    """First row, height and width of tiles of at most `pairs` pairs that cover i <= j < count, strip of rows after strip."""
    i, low = 0, min(8, math.isqrt(pairs))
    while i < count:
        height = min(max(pairs // (count - i), low), count - i)
        yield i, height, pairs // height
        i += height


def pair_weights(
    counts: tuple[int, int], estimator: str, i: int, height: int, like: Tensor
) -> Tensor:
    """W of D = Σ W_ij k_ij over i <= j, for rows i to i + height: (height, N + M). A pair i < j also stands for j, i."""
    N, M = counts
    u = estimator == "u"
    weights = like.new_full((height, N + M), -2 / (N * M))
    of_r = min(max(N - i, 0), height)
    weights[:of_r, :N] = 2 / (N * (N - u))
    weights[of_r:, N:] = 2 / (M * (M - u))
    weights.triu_(i + u)
    weights.diagonal(i).mul_(0.5)
    return weights


def weighted_kernel(
    arrays: Tensor, a: Tensor, b: Tensor, weights: Tensor, logs: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    """W k of a tile: by axis, (L, n, I, J), for the "mean" kernel, else (L, 1, I, J); and the same, 0 where k is held.

    arrays: (4, L, n, I, J), to work in; on return λ^(-1/2), W k by axis, u = δ λ^(-1/2) and u².
    """
    (a_mean, a_var), (b_mean, b_var), (r, k, u, square) = a, b, arrays
    torch.add(a_var, b_var, out=r).rsqrt_()
    torch.sub(a_mean, b_mean, out=u).mul_(r)
    torch.mul(u, u, out=square)
    if logs is None:
        torch.exp2(square, out=k)
        torch.div(r, k, out=k).mul_(weights)
        return k, k
    factors = r.unflatten(
        1, (-1, math.gcd(r.shape[1], 4))
    )  # a logarithm costs ten products, and four factors stay in range
    log_2 = (factors.prod(2).log2_().sum(1) - square.sum(1) + logs).unsqueeze(1)
    limit = largest_log(log_2.dtype) / LN_2
    weighted = log_2.clamp(max=limit).exp2_().mul_(weights)
    return weighted, weighted.masked_fill(log_2 > limit, 0)


def slopes_of(arrays: Tensor, k: Tensor) -> Tensor:
    """λ^(-1/2) u k and (1 - 2 ln2 u²) k / λ, (2, L, n, I, J), in the place of u and u²."""
    r, weighted, u, square = arrays
    torch.mul(r, k, out=weighted)
    u.mul_(weighted)
    torch.addcmul(weighted, weighted, square, value=-2 * LN_2, out=square).mul_(r)
    return arrays[2:]


def largest_log(dtype: torch.dtype) -> float:
    """Log of the largest product kernel: half of the dtype's range, 44 in float32, so that gradients have room above it."""
    return math.log(torch.finfo(dtype).max) / 2


def check_no_variance(var: Tensor, count_r: int) -> None:
    """Raise ValueError for variances of both batches, (*, N + M, n), that are not positive, on a CPU: a GPU would stall."""
    if var.is_cpu and bool((var <= 0).any()):
        side = "r" if bool((var[..., :count_r, :] <= 0).any()) else "g"
        raise ValueError(
            f"var_{side} holds {var[var <= 0][0].item():.4g}: variances must be positive; pass q.var, not q.logvar"
        )
