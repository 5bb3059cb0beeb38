"""Numbers of the chapter on measures that no other test holds, by means that share nothing with its code."""

import math

import numpy as np
import torch
from scipy import stats

from asintrovae import frechet_distance, histogram_divergences
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


def test_blur_and_missing_squares_on_the_checkerboard(generator):
    """Blur raises KL and "JSD" there; half of the board, drawn perfectly, gets a KL of 26, one point 46."""
    density = toy_density("checkerboard")

    def mean(fakes):
        pairs = [histogram_divergences(density.sample(5000, generator), fake, density.extent)[:2] for fake in fakes]
        return torch.tensor(pairs).mean(0)

    perfect = mean(density.sample(5000, generator) for _ in range(10))
    blurred = mean(density.sample(5000, generator) + 0.1 * torch.randn(5000, 2, generator=generator) for _ in range(10))
    assert bool((blurred > perfect + torch.tensor([0.8, 0.3])).all())
    points = (density.sample(12_000, generator) for _ in range(10))
    assert abs(mean(cloud[cloud[:, 0] < 0][:5000] for cloud in points)[0] - 26) < 0.5
    assert abs(mean(torch.full((5000, 2), 0.01) for _ in range(3))[0] - 45.85) < 0.2


def test_frechet_distance_of_two_samples_falls_like_one_over_n():
    """E d² = F (F + 5) / 2n for N(0, I); numpy draws and moments."""
    rng = np.random.default_rng(0)
    for n in (200, 800):
        moments = [[(x.mean(0), np.cov(x.T)) for x in rng.normal(size=(2, n, 8))] for _ in range(60)]
        values = [float(frechet_distance(*map(torch.from_numpy, (*a, *b)))) for a, b in moments]
        assert abs(np.mean(values) * n / (8 * 13 / 2) - 1) < 0.15
