"""Numbers of the chapter on measures that no other test holds, by means that share nothing with its code."""

import math

import numpy as np
import torch
from scipy import stats

from asintrovae import frechet_distance, histogram_divergences, ssim
from asintrovae.data import toy_density


def test_floor_of_the_checkerboard_is_a_poisson_expectation(generator):
    """One point per cell on average: summed with scipy over pairs of counts, and met by two real samples."""
    density = toy_density("checkerboard")
    kl = jsd = 0.0
    for k in range(25):
        for j in range(25):
            p, q, weight = k / 32, j / 32, 5000 * stats.poisson.pmf(k, 1) * stats.poisson.pmf(j, 1) / 100
            m = (p + q) / 2
            kl += weight * (p * (math.log(p) - math.log(q + 1e-14)) if k else 0.0)
            jsd += weight * (m * (math.log(m) - 0.5 * math.log((p + 1e-14) * (q + 1e-14))) if k + j else 0.0)
    assert (round(kl, 2), round(jsd, 2)) == (17.09, 8.09)
    draws = [
        histogram_divergences(density.sample(5000, generator), density.sample(5000, generator), density.extent)[:2]
        for _ in range(20)
    ]
    mean = torch.tensor(draws).mean(0)
    assert abs(mean[0] - kl) < 0.3
    assert abs(mean[1] - jsd) < 0.15


def test_a_little_blur_scores_below_the_floor_in_kl_alone(generator):
    """KL below that of a perfect sampler is not always a bug: a wider sampler misses fewer cells."""
    density = toy_density("8gaussians")
    wins = []
    for _ in range(10):
        real, perfect, fake = (density.sample(5000, generator) for _ in range(3))
        fake = fake + 0.01 * torch.randn(5000, 2, generator=generator)
        good, wide = (histogram_divergences(real, cloud, density.extent) for cloud in (perfect, fake))
        wins.append((wide.protocol_kl < good.protocol_kl, wide.protocol_jsd > good.protocol_jsd))
    assert sum(kl for kl, _ in wins) >= 9
    assert sum(jsd for _, jsd in wins) >= 9


def test_frechet_distance_of_two_samples_falls_like_one_over_n():
    """E d² = F (F + 5) / 2n for N(0, I); numpy draws and moments."""
    rng = np.random.default_rng(0)
    for n in (200, 800):
        moments = [[(x.mean(0), np.cov(x.T)) for x in rng.normal(size=(2, n, 8))] for _ in range(60)]
        values = [float(frechet_distance(*map(torch.from_numpy, (*a, *b)))) for a, b in moments]
        assert abs(np.mean(values) * n / (8 * 13 / 2) - 1) < 0.15


def test_ssim_window_by_window(generator):
    """Wang et al. 2004 written out for each pixel, the border mirrored, the three factors apart."""
    x, y = torch.rand(2, 13, 12, generator=generator).double()
    weight = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weight = np.outer(weight, weight) / weight.sum() ** 2
    wide_x, wide_y = (np.pad(image.numpy(), 5, mode="reflect") for image in (x, y))
    total = 0.0
    for i in range(13):
        for j in range(12):
            a, b = wide_x[i : i + 11, j : j + 11], wide_y[i : i + 11, j : j + 11]
            mu_a, mu_b = (weight * a).sum(), (weight * b).sum()
            std_a, std_b = (math.sqrt((weight * (t - mu) ** 2).sum()) for t, mu in ((a, mu_a), (b, mu_b)))
            cov = (weight * (a - mu_a) * (b - mu_b)).sum()
            luminance = (2 * mu_a * mu_b + 1e-4) / (mu_a**2 + mu_b**2 + 1e-4)
            contrast = (2 * std_a * std_b + 9e-4) / (std_a**2 + std_b**2 + 9e-4)
            total += luminance * contrast * (cov + 4.5e-4) / (std_a * std_b + 4.5e-4)
    torch.testing.assert_close(float(ssim(x[None, None], y[None, None])), total / (13 * 12), rtol=1e-6, atol=1e-6)
