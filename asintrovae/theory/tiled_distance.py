"""The arithmetic of `as_distance`: a weighted sum of the kernel over all pairs, and its gradient.

The whole Gram matrix by axes would be N × M × n numbers, several times over, and on a CPU eager
code spends its time on moving them. A tile of pairs stays in the cache. Small batches are one tile,
larger ones many.

On a CPU one thread computes a tile, and threads share the tiles. If all threads shared each
operation of a tile, they would wait for each other fifteen times a tile, and on a busy machine
each time for the slowest. Measured on two processors as the time with two threads over that with
one, for B = 32 to 1024 and n = 2 to 256: shared tiles take 0.5 to 1.2, beside other programs 0.35
to 1.25; shared operations 0.5 to 1.7 and 2 to 24.

From the outside to the inside: `PairSum` is D with its gradient, `sum_over_pairs` deals sets and
strips of tiles to threads, `over_strips` and `over_strip` run over tiles, and `weighted_kernel` and
`slopes_of` compute one tile. In shapes there are L sets, as of the members of an ensemble, of
S = N + M examples with n axes.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from asintrovae.threads import one_thread

T = TypeVar("T")
Strip = tuple[int, int, int]
"""First row, number of rows, and columns in one tile."""

LN_2 = math.log(2)
TILE = {"cpu": 2**17, "shared": 2**19, "cuda": 2**22}
"""Numbers, pairs times axes, in each of the four arrays of a tile.

"shared" is for threads that take turns at Python's lock between operations: longer operations are
faster there, although they leave the cache.
"""
TILES_PER_THREAD = 4
"""Tiles from which on another thread is faster than none."""


class Options(NamedTuple):
    """The sum that is asked for.

    Attributes:
        reduction: of the kernel over the axes, "mean", "product" or its n-th root, "tempered".
        counts: N and M, how many of the examples are reconstructed and generated.
        estimator: "v" with the pairs i = i, or "u" without them.
        keep: the gradient is formed, too.
    """

    reduction: str
    counts: tuple[int, int]
    estimator: str
    keep: bool = False


class Sums(NamedTuple):
    """Σ W_ij k_ij over i <= j, and the sums that its gradient is made of, 0 if none is kept.

    Attributes:
        value: the sum itself, (L,).
        rows: slopes in mean and variance, summed over the pairs in which an example is i,
            (2, L, n, S).
        columns: the same over the pairs in which it is j.
        scale: weighted kernels of all pairs that an example is in, the slope in its log-scale,
            (L, S).
    """

    value: Tensor
    rows: Tensor
    columns: Tensor
    scale: Tensor


class Buffers(NamedTuple):
    """The arrays that a tile is computed in, (L, n, I, J) for I rows and J columns.

    Attributes:
        root: λ^(-1/2), with λ the sum of a pair's two scaled variances.
        kernel: the weighted kernel of each axis.
        ratio: u = δ λ^(-1/2), with δ the difference of the means; then the slope in δ.
        square: u²; then the slope in λ.
        both: ratio and square as one array, (2, L, n, I, J).
    """

    root: Tensor
    kernel: Tensor
    ratio: Tensor
    square: Tensor
    both: Tensor

    @classmethod
    def within(cls, work: Tensor, *shape: int) -> "Buffers":
        """Return four arrays of this shape in the first part of a long one."""
        arrays = work[: 4 * math.prod(shape)].view(4, *shape)
        root, kernel, ratio, square = arrays
        return cls(root, kernel, ratio, square, both=arrays[2:])


class PairSum(torch.autograd.Function):
    """D as one sum over the pairs of all N + M examples, and in the same pass its gradient.

    D is a scalar, so its gradient is known up to a factor as soon as D is: it is formed while a
    pair's numbers are at hand, and kept. Nothing of the size of the pairs is kept, and the backward
    pass has nothing to compute again. The kernel is exp(s_i + s_j) Π_d N(μ_d - μ'_d; 0, λ_d + λ'_d)
    with log-scales s of the "prior" kernel, or without them its n-th root, or the mean over d.
    """

    @staticmethod
    def call(
        mean: Tensor, var: Tensor, log_scale: Tensor | None, options: Options
    ) -> tuple[Tensor, ...]:
        """Return D, and its gradients where a level of torch.func can ask for them.

        This may be the present level, or one outside of it (`options.keep`).
        """
        if torch.is_grad_enabled() and (mean.requires_grad or var.requires_grad):
            options = options._replace(keep=True)
        found: tuple[Tensor, ...] = PairSum.apply(mean, var, log_scale, options)  # type: ignore[no-untyped-call]
        return found

    @staticmethod
    def forward(
        mean: Tensor, var: Tensor, log_scale: Tensor | None, options: Options
    ) -> tuple[Tensor, ...]:
        """Return D, (*,), and if `options.keep` its gradients.

        Args:
            mean: (*, N + M, n).
            var: (*, N + M, n).
            log_scale: (*, N + M), or None.
            options: of the sum.
        """
        with one_thread(mean) as available:
            check_no_variance(var, options.counts[0])
            *outer, count, n = mean.shape
            # Powers of 2 cost a third of those of e. With 2 ln2 λ in the place of λ,
            # N(δ; 0, λ) = sqrt(ln2 / π) λ^(-1/2) 2^(-δ² / λ).
            stacked = torch.stack((mean, 2 * LN_2 * var)).reshape(2, -1, count, n)
            z = stacked.mT.contiguous()  # (2, L, n, N + M)
            log_2 = None if log_scale is None else (log_scale / LN_2).reshape(-1, count)
            sums = sum_over_pairs(z, log_2, options, available)
            factor = math.sqrt(2 * LN_2) / n if options.reduction == "mean" else 1.0
            slope = 1 / n if options.reduction == "tempered" else factor
            found = [(sums.value * factor).reshape(outer)]
            if options.keep:
                d_mean = (sums.columns[0] - sums.rows[0]) * (2 * LN_2 * slope)
                d_var = (sums.columns[1] + sums.rows[1]) * (-LN_2 * slope)
                found += [slopes.mT.reshape(mean.shape) for slopes in (d_mean, d_var)]
            if options.keep and log_2 is not None:
                found.append(sums.scale.reshape(*outer, count))
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
        """Return the kept gradients, times that of D, (*,).

        Raises:
            RuntimeError: for a second derivative.
        """
        # compiled code gives zeros in the place of None, and has no second derivative itself
        if not torch.compiler.is_compiling() and any(part is not None for part in second):
            way_out = "for more build D from expected_likelihood_kernel"
            raise RuntimeError(f"as_distance is differentiable once; {way_out}")
        if gradient is None:
            return (None,) * 4
        with one_thread(gradient):
            outer = gradient.shape
            parts = [
                gradient.view(*outer, *[1] * (kept.dim() - len(outer))) * kept
                for kept in ctx.saved_tensors
            ]
        return (*parts, None, None)[:4]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *given: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Return the results with the mapped axis as one more leading axis."""

        def in_front(t: Tensor, dim: int | None) -> Tensor:
            return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

        mean, var, log_scale, options = given
        if log_scale is not None:
            log_scale = in_front(log_scale, in_dims[2])
        mean, var = in_front(mean, in_dims[0]), in_front(var, in_dims[1])
        found = PairSum.call(mean, var, log_scale, options)
        return found, (0,) * len(found)


# torch looks at the signature in every call, which costs as much as fifteen small operations
PairSum.forward.__signature__ = inspect.signature(PairSum.forward)  # type: ignore[attr-defined]


def sum_over_pairs(z: Tensor, log_2: Tensor | None, options: Options, threads: int) -> Sums:
    """Return Σ W_ij k_ij over i <= j for each of L sets of S = N + M examples.

    Args:
        z: means and scaled variances, (2, L, n, S).
        log_2: log-scales to the base 2, (L, S), if any.
        options: of the sum.
        threads: at most so many share the work.
    """
    _, sets, n, count = z.shape
    enough = sets * n * count**2 // (2 * TILES_PER_THREAD * TILE["shared"])
    threads = max(1, min(threads, enough))
    size = TILE["cuda" if z.is_cuda else "shared" if threads > 1 else "cpu"]
    pairs = max(1, size // n)  # in a tile, of all its sets
    places = list(strips(count, pairs))
    together = max(1, pairs // count**2)  # sets in a tile
    if sets > together:
        return over_groups(z, log_2, options, threads, places, together)
    shares = min(threads, len(places))
    dealt = [places[first::shares] for first in range(shares)]
    found = in_threads(lambda share: over_strips(z, log_2, options, share), dealt, threads)
    return Sums(*(sum(parts[1:], parts[0]) for parts in zip(*found, strict=True)))


def over_groups(
    z: Tensor,
    log_2: Tensor | None,
    options: Options,
    threads: int,
    places: Sequence[Strip],
    together: int,
) -> Sums:
    """Return `sum_over_pairs` from groups of `together` sets, each over all strips."""
    scales = itertools.repeat(None) if log_2 is None else torch.split(log_2, together)
    groups = list(zip(torch.split(z, together, 1), scales, strict=False))
    found = in_threads(lambda group: over_strips(*group, options, places), groups, threads)
    axes_of_sets = (0, 1, 1, 0)
    return Sums(*map(torch.cat, zip(*found, strict=True), axes_of_sets))


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


def over_strips(z: Tensor, log_2: Tensor | None, options: Options, places: Sequence[Strip]) -> Sums:
    """Return the part of `sum_over_pairs` that these strips of rows add."""
    _, sets, n, count = z.shape
    largest = max(height * min(width, count) for _, height, width in places)
    work = z.new_empty(4 * sets * n * largest)
    sums = Sums(
        value=z.new_zeros(len(places), sets),
        rows=torch.zeros_like(z),
        columns=torch.zeros_like(z),
        scale=z.new_zeros(sets, count),
    )
    for strip, value in zip(places, sums.value, strict=True):
        over_strip(z, log_2, options, strip, work, sums._replace(value=value))
    return sums._replace(value=sums.value.sum(0))


def over_strip(
    z: Tensor, log_2: Tensor | None, options: Options, strip: Strip, work: Tensor, sums: Sums
) -> None:
    """Add a strip to `sums`, tile by tile; `work` is long enough for each of its tiles."""
    _, sets, n, count = z.shape
    i, height, width = strip
    weights = pair_weights(options, i, height, work)
    rows = z.narrow(-1, i, height).unsqueeze(-1)
    constant = 0.5 * n * math.log2(LN_2 / math.pi)
    logs: Tensor | float | None = None if options.reduction == "mean" else constant
    power = 1 / n if options.reduction == "tempered" else 1.0
    for j in range(i, count, width):
        size = min(width, count - j)
        columns = z.narrow(-1, j, size).unsqueeze(-2)
        if log_2 is not None:
            logs = log_2[:, i : i + height, None] + (log_2[:, None, j : j + size] + constant)
        buffers = Buffers.within(work, sets, n, height, size)
        tile = weights.narrow(1, j, size)
        kernel, live = weighted_kernel(buffers, rows, columns, tile, logs, power)
        sums.value.add_(kernel.flatten(1).sum(1))
        if not options.keep:
            continue
        if log_2 is not None:
            sums.scale.narrow(-1, i, height).add_(live.sum((1, -1)))
            sums.scale.narrow(-1, j, size).add_(live.sum((1, -2)))
        slopes = slopes_of(buffers, live)
        sums.rows.narrow(-1, i, height).add_(slopes.sum(-1))
        sums.columns.narrow(-1, j, size).add_(slopes.sum(-2))


def strips(count: int, pairs: int) -> Iterator[Strip]:
    """Yield strips of rows whose tiles, of at most `pairs` pairs, cover i <= j < count."""
    i, low = 0, min(8, math.isqrt(pairs))
    while i < count:
        height = min(max(pairs // (count - i), low), count - i)
        yield i, height, pairs // height
        i += height


def pair_weights(options: Options, i: int, height: int, like: Tensor) -> Tensor:
    """Return W of D = Σ W_ij k_ij over i <= j, for rows i to i + height: (height, N + M).

    A pair i < j also stands for the pair j, i.
    """
    (N, M), u = options.counts, options.estimator == "u"
    weights = like.new_full((height, N + M), -2 / (N * M))
    of_r = min(max(N - i, 0), height)
    weights[:of_r, :N] = 2 / (N * (N - u))
    weights[of_r:, N:] = 2 / (M * (M - u))
    weights.triu_(i + u)
    weights.diagonal(i).mul_(0.5)
    return weights


def weighted_kernel(
    buffers: Buffers,
    rows: Tensor,
    columns: Tensor,
    weights: Tensor,
    logs: Tensor | float | None,
    power: float,
) -> tuple[Tensor, Tensor]:
    """Return W k of a tile, and the same with 0 where k is held at its largest value.

    Both are (L, n, I, J), by axis, for the "mean" kernel, and else (L, 1, I, J). The buffers root,
    ratio and square hold afterwards what `Buffers` says.

    Args:
        buffers: of the tile.
        rows: means and scaled variances, (2, L, n, I, 1).
        columns: the same, (2, L, n, 1, J).
        weights: W, (I, J).
        logs: log of a pair's scale to the base 2, a number or (L, I, J); None for "mean".
        power: of the product kernel.
    """
    (row_mean, row_var), (column_mean, column_var) = rows, columns
    root, kernel, ratio, square, _ = buffers
    torch.add(row_var, column_var, out=root).rsqrt_()
    torch.sub(row_mean, column_mean, out=ratio).mul_(root)
    torch.mul(ratio, ratio, out=square)
    if logs is None:
        torch.exp2(square, out=kernel)
        torch.div(root, kernel, out=kernel).mul_(weights)
        return kernel, kernel
    # a logarithm costs ten products, and four factors stay in range
    sets, n, *pairs = root.shape
    factors = root.view(sets, -1, math.gcd(n, 4), *pairs).prod(2)
    log_2 = (factors.log2_().sum(1) - square.sum(1) + logs).unsqueeze(1)
    if power != 1:
        log_2.mul_(power)
    limit = largest_log(log_2.dtype) / LN_2
    weighted = log_2.clamp(max=limit).exp2_().mul_(weights)
    return weighted, weighted.masked_fill(log_2 > limit, 0)


def slopes_of(buffers: Buffers, k: Tensor) -> Tensor:
    """Return λ^(-1/2) u k and (1 - 2 ln2 u²) k / λ, (2, L, n, I, J), in the place of u and u².

    They are the derivatives of k in δ over -2 ln2, and in λ over -½.
    """
    root, kernel, ratio, square, both = buffers
    torch.mul(root, k, out=kernel)
    ratio.mul_(kernel)
    torch.addcmul(kernel, kernel, square, value=-2 * LN_2, out=square).mul_(root)
    return both


def largest_log(dtype: torch.dtype) -> float:
    """Return the log of the largest product kernel, half of the dtype's range, 44 in float32.

    Gradients have room above it.
    """
    return math.log(torch.finfo(dtype).max) / 2


def check_no_variance(var: Tensor, count_r: int) -> None:
    """Raise ValueError for variances that are not positive, on a CPU; a GPU would stall.

    Args:
        var: variances of both batches, (*, N + M, n).
        count_r: N.
    """
    if var.is_cpu and bool((var <= 0).any()):
        side = "r" if bool((var[..., :count_r, :] <= 0).any()) else "g"
        found = f"var_{side} holds {var[var <= 0][0].item():.4g}"
        raise ValueError(f"{found}: variances must be positive; pass q.var, not q.logvar")
