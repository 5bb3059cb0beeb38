"""Histogram divergences and mode counts for points, fidelity for images, and collapse."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asintrovae.ranges import check_other_range
from asintrovae.theory.gaussian import Gaussian


class Divergences(NamedTuple):
    """Divergences between two clouds of points.

    Attributes:
        protocol_kl: as in the published tables, without a unit.
        protocol_jsd: as in the published tables, without a unit.
        kl_nats: Kullback-Leibler divergence of the binned distributions, in nats.
        jsd_nats: Jensen-Shannon divergence of the binned distributions, in nats.
    """

    protocol_kl: float
    protocol_jsd: float
    kl_nats: float
    jsd_nats: float


def histogram_divergences(
    real: Tensor, fake: Tensor, extent: tuple[float, float], bins: int = 100
) -> Divergences:
    """Return divergences between two clouds of points, binned on extent².

    The protocol of the tables works with densities P (real) and Q (fake) per cell:
    KL = Σ P (log P - log(Q + 1e-14))/100, and a "JSD" whose arguments are reversed,
    [KL(M‖P) + KL(M‖Q)]/2 with M = (P + Q)/2, so that it is not bounded by log 2. kl_nats and
    jsd_nats are the Kullback-Leibler and Jensen-Shannon divergences of the cell probabilities; an
    empty cell of Q counts as density 1e-14, or kl_nats would be infinite. All of them depend on
    bins and on the sample sizes: two samples of one distribution do not reach zero.

    Args:
        real: (N, 2).
        fake: (M, 2).
        extent: lower and upper bound of both axes; points outside are left out.
        bins: cells along an axis.

    Returns:
        protocol_kl, protocol_jsd (without a unit), kl_nats, jsd_nats, a named tuple.

    Raises:
        ValueError: if a cloud has another shape, holds NaN or has no point inside extent².

    Example:
        >>> points = torch.rand(1000, 2)
        >>> histogram_divergences(points, points, (0, 1), bins=10).protocol_kl < 1e-9
        True
    """
    p, q = (
        _histogram_density(cloud, extent, bins, name)
        for cloud, name in ((real, "real"), (fake, "fake"))
    )
    middle = (p + q) / 2
    cell = ((extent[1] - extent[0]) / bins) ** 2
    return Divergences(
        protocol_kl=_relative_entropy(p, q) / 100,
        protocol_jsd=(_relative_entropy(middle, p) + _relative_entropy(middle, q)) / 2 / 100,
        kl_nats=_relative_entropy(p, q) * cell,
        jsd_nats=(_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2 * cell,
    )


def _histogram_density(points: Tensor, extent: tuple[float, float], bins: int, name: str) -> Tensor:
    """Return the density of points in each cell, (bins, bins), float64."""
    if points.dim() != 2 or points.shape[1] != 2 or not bool(points.isfinite().all()):
        raise ValueError(
            f"{name} must be finite points of shape (count, 2), got shape {tuple(points.shape)}"
        )
    low, high = extent
    counts = torch.histogramdd(
        points.detach().cpu().double(), [bins, bins], range=[low, high, low, high]
    ).hist
    if counts.sum() == 0:
        raise ValueError(f"{name} has no point inside extent={extent}²")
    return counts / counts.sum() / ((high - low) / bins) ** 2


def _relative_entropy(p: Tensor, q: Tensor) -> float:
    """Return Σ P (log P - log(Q + 1e-14)) over the cells with P > 0."""
    return float((torch.special.xlogy(p, p) - p * (q + 1e-14).log()).sum())


def modes_found(points: Tensor, centers: Tensor, radius: float, share: float = 0.25) -> int:
    """Return how many centers have points enough within a radius.

    Args:
        points: (N, 2).
        centers: (K, 2).
        radius: around a center.
        share: least part that a mode must hold of the N/K points it should have.
    """
    near = torch.cdist(points.cpu(), centers) < radius
    return int((near.sum(0) >= share * len(points) / len(centers)).sum())


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    """Return the squared Fréchet (2-Wasserstein) distance between two Gaussians.

    It is ‖m_a - m_b‖² + tr(C_a + C_b - 2 (C_a C_b)^½), Dowson & Landau 1982; on InceptionV3
    features it is the FID of Heusel et al. 2017. Use float64: the trace cancels.

    Args:
        mean_a: (F,).
        cov_a: (F, F), symmetric positive semi-definite.
        mean_b: (F,).
        cov_b: (F, F), symmetric positive semi-definite.

    Returns:
        A scalar.

    Example:
        >>> zero, one = torch.zeros(3).double(), torch.eye(3).double()
        >>> frechet_distance(zero, one, zero + 2, one)
        tensor(12., dtype=torch.float64)
    """
    # tr (C_a C_b)^½ is the sum of the square roots of the eigenvalues, which are real and
    # non-negative up to rounding.
    root_trace = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    means = (mean_a - mean_b).square().sum()
    squared: Tensor = means + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return squared


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (F,) and unbiased covariance (F, F) of features (N, F), in float64.

    Raises:
        ValueError: for fewer than two examples.
    """
    if len(features) < 2:
        raise ValueError(f"features has {len(features)} examples, a covariance needs at least 2")
    features = features.cpu().double()  # some devices, as mps, have no float64
    return features.mean(0), features.T.cov()


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1].

    Attributes:
        precision: of generated examples near a real one.
        recall: of real examples near a generated one.
    """

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Return improved precision and recall (Kynkäänniemi et al. 2019, Eqs. 1-2), in float64.

    The manifold of a set A is the union of balls around its members, each as wide as the distance
    to its k-th nearest other member: f(x, A) = 1 where ‖x - a‖ ≤ ‖a - NN_k(a, A)‖ for some a in A,
    else 0. precision is the mean of f(fake, real), recall the mean of f(real, fake). Time grows
    with N M, memory with N + M. Both measures depend on N and M.

    Args:
        real: features (N, F).
        fake: features (M, F).
        k: which neighbour.

    Returns:
        precision and recall, a named tuple of shares in [0, 1].

    Raises:
        ValueError: if a set has no more than k members, or the sets have other features.

    Example:
        >>> features = torch.randn(100, 8)
        >>> precision_recall(features, features + 100)
        PrecisionRecall(precision=0.0, recall=0.0)
    """
    real, fake = _comparable(real, fake, k + 1, f"k={k} neighbours")
    return PrecisionRecall(_share_covered(fake, real, k), _share_covered(real, fake, k))


def _comparable(real: Tensor, fake: Tensor, least: int, what: str) -> tuple[Tensor, Tensor]:
    """Return features in float64 on the CPU, if each set has as many members as `what` needs."""
    if real.shape[1:] != fake.shape[1:]:
        shapes = f"real has shape {tuple(real.shape)}, fake {tuple(fake.shape)}"
        raise ValueError(f"{shapes}; give features of one network")
    for name, features in (("real", real), ("fake", fake)):
        if len(features) < least:
            needed = f"{what} need at least {least}"
            raise ValueError(f"{name} has {len(features)} examples, {needed}; give more of them")
    return real.cpu().double(), fake.cpu().double()  # mps has no float64


def _share_covered(points: Tensor, members: Tensor, k: int) -> float:
    """Return the mean of f(points, members), 1000 rows of distances at a time."""
    # The nearest member is the member itself; in float64 its computed distance stays below that
    # of any other.
    to_members = (torch.cdist(part, members) for part in torch.split(members, 1000))
    radii = torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in to_members])
    to_points = (torch.cdist(part, members) for part in torch.split(points, 1000))
    covered = torch.cat([(rows <= radii).any(1) for rows in to_points])
    return float(covered.double().mean())


class DensityCoverage(NamedTuple):
    """Measures by the balls around real examples.

    Attributes:
        density: balls that hold a generated example, on average, in units of k; 0 or more.
        coverage: share of the balls that hold a generated example, in [0, 1].
    """

    density: float
    coverage: float


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Return density and coverage (Naeem et al. 2020, Eqs. 3-4), in float64.

    Each real example has a ball as wide as the distance to its k-th nearest other real example.
    density is the number of balls in which a generated example lies, averaged over them and divided
    by k: about 1 for real images, and above 1 where the examples crowd together. coverage is the
    share of balls in which a generated example lies. Balls are open, as in the authors' package
    prdc. Time grows with N (N + M), memory with N + M. Both measures depend on N and M.

    Args:
        real: features (N, F).
        fake: features (M, F).
        k: which neighbour.

    Returns:
        density, 0 or more, and coverage, in [0, 1], a named tuple.

    Raises:
        ValueError: if a set has no more than k members, or the sets have other features.

    Example:
        >>> features = torch.randn(100, 8)
        >>> density_coverage(features, features + 100)
        DensityCoverage(density=0.0, coverage=0.0)
    """
    real, fake = _comparable(real, fake, k + 1, f"k={k} neighbours")
    pairs = covered = 0
    for part in torch.split(real, 1000):
        radii = torch.cdist(part, real).kthvalue(k + 1, dim=1, keepdim=True).values
        inside = torch.cdist(part, fake) < radii
        pairs += int(inside.sum())
        covered += int(inside.any(1).sum())
    return DensityCoverage(pairs / (k * len(fake)), covered / len(real))


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the kernel distance of two sets, in float64; on InceptionV3 features it is the KID.

    It is the unbiased estimate of the squared maximum mean discrepancy with the kernel
    (x·y/F + 1)³, Bińkowski et al. 2018. Others average it over random subsets. Here it is taken
    over all pairs at once, so it has no randomness of its own, and no standard error. Time grows
    with (N + M)², memory with N + M.

    Args:
        real: features (N, F).
        fake: features (M, F).

    Returns:
        The distance. It is 0 on average over pairs of samples of one distribution, so that it can
        be negative.

    Raises:
        ValueError: if a set has fewer than two members, or the sets have other features.

    Example:
        >>> features = torch.eye(2)
        >>> kernel_distance(features, features + 1)
        16.625
    """
    real, fake = _comparable(real, fake, 2, "pairs of examples")
    across = _kernel_sum(real, fake) / (len(real) * len(fake))
    return _mean_of_pairs(real) + _mean_of_pairs(fake) - 2 * across


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    """Return the sum of (x·y/F + 1)³ over all x in a (N, F) and y in b (M, F), 1000 rows a time."""
    rows = (part @ b.T / b.shape[1] for part in torch.split(a, 1000))
    return sum(float((row + 1).pow(3).sum()) for row in rows)


def _mean_of_pairs(features: Tensor) -> float:
    """Return the mean of (x·y/F + 1)³ over pairs of different members of features (N, F)."""
    count = len(features)
    itself = (features.square().mean(1) + 1).pow(3).sum()
    return (_kernel_sum(features, features) - float(itself)) / (count * (count - 1))


def check_unlike(x: Tensor, x_hat: Tensor) -> None:
    """Raise ValueError for shapes that differ, and for images (B, C, H, W) in another range."""
    if x.shape != x_hat.shape:
        shapes = f"x has shape {tuple(x.shape)}, x_hat {tuple(x_hat.shape)}"
        raise ValueError(f"{shapes}; give one reconstruction for each image")
    if x.dim() == 4:
        check_other_range("x", x)
        check_other_range("x_hat", x_hat, generated=True)


PART_BYTES = 2**28
"""Bytes of images that are compared at once, 256 MiB; copies and differences come on top."""


def in_parts(x: Tensor, x_hat: Tensor, size: int = PART_BYTES) -> list[tuple[Tensor, Tensor]]:
    """Return images and their reconstructions in parts of at most `size` bytes, or of one image."""
    together = max(1, size // max(1, x[:1].nbytes))
    return list(zip(torch.split(x, together), torch.split(x_hat, together), strict=True))


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return the mean squared error over all values.

    Args:
        x: images (B, C, H, W) in [0, 1] or points (B, 2).
        x_hat: the same, reconstructed.

    Returns:
        A scalar.

    Raises:
        ValueError: for shapes that differ, and for images in another range.

    Example:
        >>> mse(torch.zeros(4, 2), torch.full((4, 2), 0.5))
        tensor(0.2500)
    """
    check_unlike(x, x_hat)
    parts = in_parts(x, x_hat)
    means = [(part - part_hat).square().mean() for part, part_hat in parts]
    if len(means) == 1:
        return means[0]
    sizes = torch.tensor([len(part) for part, _ in parts]).to(x)
    return (torch.stack(means) * sizes).sum() / sizes.sum()


def psnr(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, per image, then averaged.

    Args:
        x: images (B, C, H, W) in [0, 1].
        x_hat: the same, reconstructed.

    Returns:
        A scalar, infinite where they are equal.

    Raises:
        ValueError: for shapes that differ, and for images in another range.

    Example:
        >>> x = torch.zeros(2, 1, 28, 28)
        >>> psnr(x, x + 0.1)
        tensor(20.)
    """
    check_unlike(x, x_hat)
    from asintrovae.data._torchvision import torchvision  # noqa: F401 (repaired for torchmetrics)

    from torchmetrics.functional.image import peak_signal_noise_ratio  # isort: skip (slow)

    options: dict[str, Any] = {"data_range": 1.0, "dim": (1, 2, 3), "reduction": "none"}
    parts = in_parts(x, x_hat)
    values = [peak_signal_noise_ratio(one_hat, one, **options) for one, one_hat in parts]
    return torch.cat(values).mean()


def ssim(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return the structural similarity, per image, then averaged.

    Wang et al. 2004: Gaussian window of 11 pixels, σ = 1.5; torchmetrics mirrors the image at its
    border and averages over all of it.

    Args:
        x: images (B, C, H, W) in [0, 1].
        x_hat: the same, reconstructed.

    Returns:
        A scalar, at most 1.

    Raises:
        ValueError: for shapes that differ, and for images in another range.

    Example:
        >>> x = torch.rand(2, 1, 28, 28)
        >>> ssim(x, x)
        tensor(1.)
    """
    check_unlike(x, x_hat)
    from asintrovae.data._torchvision import torchvision  # noqa: F401

    from torchmetrics.functional.image import structural_similarity_index_measure  # isort: skip

    # It holds eleven times the bytes of the images.
    parts = in_parts(x, x_hat, PART_BYTES // 4)
    values = []
    for one, one_hat in parts:
        value = structural_similarity_index_measure(one_hat, one, data_range=1.0, reduction="none")
        assert isinstance(value, Tensor)
        values.append(value)
    return torch.cat(values).mean()


def active_units(q: Gaussian, threshold: float = 0.01) -> int:
    """Return how many latent axes have a posterior mean whose variance exceeds a threshold.

    Burda et al. 2016.

    Args:
        q: posteriors (N, n) of N examples.
        threshold: least variance of an active axis.

    Raises:
        ValueError: for fewer than two examples.
    """
    if len(q.mean) < 2:
        raise ValueError(f"q has {len(q.mean)} examples, a variance needs at least 2")
    return int((q.mean.var(0) > threshold).sum())


def information_per_axis(q: Gaussian, noise: Tensor) -> Tensor:
    """Return the information that each latent axis alone carries about which image it encodes.

    I(x; z_d) = 1/N Σ_i log q(z_i|x_i) - log 1/N Σ_j q(z_i|x_j), z_i ~ q(z|x_i), one draw per image:
    the part of the KL divergence that is not mismatch of the aggregate posterior (Hoffman & Johnson
    2016).

    Args:
        q: posteriors (N, n) of N images.
        noise: standard normal draws (N, n).

    Returns:
        (n,), in nats; at most log N, and 0, up to noise of either sign, on a collapsed axis.
    """
    information = []
    for mean, logvar, z in zip(q.mean.T, q.logvar.T, q.sample(noise).T, strict=True):
        posterior = Gaussian(mean[:, None], logvar[:, None])
        log_q = posterior.log_prob(z[:, None, None])  # (N, N): draw i under posterior j
        information.append((log_q.diagonal() - log_q.logsumexp(1)).mean() + math.log(len(z)))
    return torch.stack(information)


def steepest_edge(images: Tensor) -> Tensor:
    """Return the largest step between two neighbours in a row, over the brightest pixel.

    It is 1 for an edge of one pixel, and blur lowers it.

    Args:
        images: (B, C, H, W) in [0, 1].

    Returns:
        (B,), in [0, 1]; 0 for a black image.

    Raises:
        ValueError: for images in another range.

    Example:
        >>> steepest_edge(torch.eye(3)[None, None])
        tensor([1.])
    """
    check_other_range("images", images, generated=True)
    peak = images.flatten(1).amax(1)
    return images.diff(dim=-1).abs().flatten(1).amax(1) / peak.clamp(
        min=torch.finfo(peak.dtype).tiny
    )
