"""Numbers of the chapter on measures that no other test holds, by means that share nothing with its
code."""

import math

import numpy as np
import pytest
import torch
from conftest import tiny_config
from scipy import ndimage, spatial, stats

from asintrovae import (
    build_data,
    build_features,
    density_coverage,
    frechet_distance,
    histogram_divergences,
    kernel_distance,
    precision_recall,
)
from asintrovae.data import toy_density
from asintrovae.evaluation.evaluate import evaluate_features
from asintrovae.evaluation.measures import moments

pytestmark = pytest.mark.xdist_group("chapter_08")  # one worker makes its fixtures once


def test_floor_of_the_checkerboard_is_a_poisson_expectation(generator):
    """One point per cell on average: summed with scipy over pairs of counts, and met by two real
    samples."""
    density = toy_density("checkerboard")
    kl = jsd = 0.0
    for k in range(25):
        for j in range(25):
            p, q, weight = (
                k / 32,
                j / 32,
                5000 * stats.poisson.pmf(k, 1) * stats.poisson.pmf(j, 1) / 100,
            )
            m = (p + q) / 2
            kl += weight * (p * (math.log(p) - math.log(q + 1e-14)) if k else 0.0)
            jsd += weight * (
                m * (math.log(m) - 0.5 * math.log((p + 1e-14) * (q + 1e-14))) if k + j else 0.0
            )
    assert (round(kl, 2), round(jsd, 2)) == (17.09, 8.09)
    draws = [
        histogram_divergences(
            density.sample(5000, generator), density.sample(5000, generator), density.extent
        )[:2]
        for _ in range(20)
    ]
    mean = torch.tensor(draws).mean(0)
    assert abs(mean[0] - kl) < 0.3
    assert abs(mean[1] - jsd) < 0.15


def test_a_little_blur_scores_below_the_floor_in_kl_alone(generator):
    """KL below that of a perfect sampler can be right: a wider sampler misses fewer cells."""
    density = toy_density("8gaussians")
    wins = []
    for _ in range(10):
        real, perfect, fake = (density.sample(5000, generator) for _ in range(3))
        fake = fake + 0.01 * torch.randn(5000, 2, generator=generator)
        good, wide = (
            histogram_divergences(real, cloud, density.extent) for cloud in (perfect, fake)
        )
        wins.append((wide.protocol_kl < good.protocol_kl, wide.protocol_jsd > good.protocol_jsd))
    assert sum(kl for kl, _ in wins) >= 9
    assert sum(jsd for _, jsd in wins) >= 9


def test_blur_and_missing_squares_on_the_checkerboard(generator):
    """Blur raises KL and "JSD" there; half of the board, drawn perfectly, gets a KL of 26, one
    point 46."""
    density = toy_density("checkerboard")

    def mean(fakes):
        pairs = [
            histogram_divergences(density.sample(5000, generator), fake, density.extent)[:2]
            for fake in fakes
        ]
        return torch.tensor(pairs).mean(0)

    perfect = mean(density.sample(5000, generator) for _ in range(10))
    blurred = mean(
        density.sample(5000, generator) + 0.1 * torch.randn(5000, 2, generator=generator)
        for _ in range(10)
    )
    assert bool((blurred > perfect + torch.tensor([0.8, 0.3])).all())
    points = (density.sample(12_000, generator) for _ in range(10))
    assert abs(mean(cloud[cloud[:, 0] < 0][:5000] for cloud in points)[0] - 26) < 0.5
    assert abs(mean(torch.full((5000, 2), 0.01) for _ in range(3))[0] - 45.85) < 0.2


def test_frechet_distance_of_two_samples_falls_like_one_over_n():
    """E d² = F (F + 5) / 2n for N(0, I); numpy draws and moments."""
    rng = np.random.default_rng(0)
    for n in (200, 800):
        moments = [
            [(x.mean(0), np.cov(x.T)) for x in rng.normal(size=(2, n, 8))] for _ in range(60)
        ]
        values = [float(frechet_distance(*map(torch.from_numpy, (*a, *b)))) for a, b in moments]
        assert abs(np.mean(values) * n / (8 * 13 / 2) - 1) < 0.15


def eight(rng, modes, n=2000, stray=0.0, std=0.01414):
    """Points near the given modes of 8 Gaussians, a share of them anywhere in the square."""
    angle = rng.choice(modes, n) * math.pi / 4
    points = math.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1) + std * rng.normal(
        size=(n, 2)
    )
    points[: int(stray * n)] = rng.uniform(-2, 2, (int(stray * n), 2))
    return torch.from_numpy(points)


def test_precision_and_recall_of_the_faulty_samplers():
    """A lost mode takes an eighth of the recall, a tenth of stray points a tenth of the precision,
    blur precision alone."""
    rng = np.random.default_rng(1)
    real = eight(rng, range(8))
    perfect, lost = (
        precision_recall(real, eight(rng, range(8))),
        precision_recall(real, eight(rng, range(1, 8))),
    )
    assert 0.95 < min(perfect) < max(perfect) < 0.995
    assert abs(lost.recall / perfect.recall - 7 / 8) < 0.03
    assert abs(lost.precision - perfect.precision) < 0.02
    stray, wide = (
        precision_recall(real, eight(rng, range(8), **fault))
        for fault in ({"stray": 0.1}, {"std": 0.05})
    )
    assert abs(stray.precision / perfect.precision - 0.9) < 0.03
    assert wide.precision < 0.5
    assert min(stray.recall, wide.recall) > perfect.recall - 0.01
    assert precision_recall(real, torch.full((2000, 2), 0.01)) == (0, 0)


def test_a_lost_mode_and_noise_everywhere_are_at_one_frechet_distance():
    rng = np.random.default_rng(2)
    real, lost = eight(rng, range(8), 20_000), eight(rng, range(1, 8), 20_000)
    noise = eight(rng, range(8), 20_000, stray=1.0)
    distances = [frechet_distance(*moments(real), *moments(fake)).item() for fake in (lost, noise)]
    exact = (
        2 / 49 + (math.sqrt(6 / 7 - 2 / 49) - 1) ** 2 + (math.sqrt(8 / 7) - 1) ** 2,
        2 * (math.sqrt(4 / 3) - 1) ** 2,
    )
    assert max(exact) / min(exact) < 1.15
    assert all(abs(d - e) < 0.012 for d, e in zip(distances, exact, strict=True))
    lost, noise = (
        precision_recall(real[:2000], lost[:2000]),
        precision_recall(real[:2000], noise[:2000]),
    )
    assert lost.precision > 0.95
    assert noise.precision < 0.02
    assert lost.recall < 0.88
    assert noise.recall > 0.99


def test_what_fools_precision_and_recall():
    """A far point, stray points and a large k give a lost mode back; a mode of nine tenths is not
    seen, or by Fréchet only."""
    rng = np.random.default_rng(3)
    real, lost = eight(rng, range(8)), eight(rng, range(1, 8))
    far = torch.cat([lost[1:], torch.tensor([[20.0, 0.0]]).double()])
    filled = eight(rng, range(1, 8), stray=0.1)
    uneven = torch.cat([eight(rng, [7], 1800), eight(rng, range(8), 200)])
    assert precision_recall(real, lost).recall < 0.88
    assert all(precision_recall(real, fake).recall > 0.95 for fake in (far, filled))
    assert min(precision_recall(real, uneven)) > 0.9
    distances = [frechet_distance(*moments(real), *moments(fake)).item() for fake in (uneven, lost)]
    assert distances[0] > 30 * distances[1]
    assert precision_recall(real[:1000], lost[:1000], 100).recall < 0.9
    assert precision_recall(real[:1000], lost[:1000], 180).recall > 0.99

    def cost(n):
        pairs = [
            (eight(rng, range(8), n), eight(rng, range(8), n), eight(rng, range(1, 8), n))
            for _ in range(40)
        ]
        return np.mean(
            [precision_recall(a, b).recall - precision_recall(a, c).recall for a, b, c in pairs]
        )

    assert cost(16) < 0.04 < 0.08 < cost(400)


def test_what_kernel_distance_density_and_coverage_see():
    """What the list under the table of six scores says, on points that numpy draws."""
    rng = np.random.default_rng(8)
    real, perfect = eight(rng, range(8)), eight(rng, range(8))
    lost, narrow = eight(rng, range(1, 8)), eight(rng, range(8), std=0.01414 / 4)
    uneven = torch.cat([eight(rng, [7], 1800), eight(rng, range(8), 200)])
    scattered = eight(rng, range(8), stray=1.0)
    fakes = {"perfect": perfect, "lost": lost, "narrow": narrow, "uneven": uneven}
    scores = {
        name: (*density_coverage(real, fake), kernel_distance(real, fake))
        for name, fake in (fakes | {"scattered": scattered}).items()
    }
    density, coverage, distance = scores["perfect"]
    assert abs(density - 1) < 0.05
    assert abs(coverage - (1 - 2**-5)) < 0.015
    assert abs(distance) < 0.02
    assert abs(scores["lost"][1] / coverage - 7 / 8) < 0.03
    assert scores["lost"][2] > 0.04
    assert abs(scores["narrow"][0] - 1) < 0.08
    assert scores["narrow"][1] < 0.4
    assert abs(scores["narrow"][2]) < 0.02
    assert precision_recall(real, uneven).recall > 0.9 > 0.5 > scores["uneven"][1]
    assert precision_recall(real, scattered).recall > 0.99
    assert max(scores["scattered"][:2]) < 0.05
    outlier = torch.cat([real[1:], torch.tensor([[20.0, 0.0]]).double()])
    assert precision_recall(outlier, scattered).precision > 0.08
    assert density_coverage(outlier, scattered).density < 0.05


@pytest.mark.parametrize("k", [2, 5])
def test_coverage_of_a_perfect_sampler_is_one_less_a_power_of_two_in_any_dimension(k):
    rng = np.random.default_rng(9)
    for axes in (2, 32):
        pairs = (map(torch.from_numpy, rng.normal(size=(2, 500, axes))) for _ in range(20))
        found = np.array([density_coverage(*pair, k=k) for pair in pairs])
        error = found.mean(0) - [1, 1 - 2**-k]
        assert bool((abs(error) < 4 * found.std(0) / 20**0.5).all())
        assert abs(error[1]) < 0.01


@pytest.mark.parametrize(("axes", "least", "most"), [(2, 0.0, 0.05), (64, 0.3, 0.45)])
def test_a_fresh_point_lies_in_k_balls_on_average_but_not_evenly(axes, least, most):
    rng = np.random.default_rng(4)
    members, points = rng.normal(size=(2, 2000, axes))
    radii = np.partition(spatial.distance.cdist(members, members), 3, axis=1)[:, 3]
    balls = (spatial.distance.cdist(points, members) <= radii).sum(1)
    assert abs(balls.mean() - 3) < 0.3
    assert least < (balls == 0).mean() < most
    if axes == 64:  # those near the middle lie in many, those far out in none
        distance = np.linalg.norm(points, axis=1)
        assert distance[balls >= 10].mean() + 0.5 < distance[balls == 0].mean()
    found = precision_recall(torch.from_numpy(members), torch.from_numpy(points))
    assert abs(found.precision - (balls > 0).mean()) < 1e-9


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Test digits, training digits, network."""
    parameters = {
        "dataset": "mnist-subset",
        "feature_network": "mnist-classifier",
        "batch_size": 1000,
        "widths": (2, 2),
    }
    config = tiny_config(tmp_path_factory.mktemp("digits"), **parameters)
    data = build_data(config)
    return (
        data.evaluation(1000),
        torch.cat([data.batch(i) for i in range(4)]),
        build_features(config),
    )


def test_floor_of_the_classifier_on_digits_falls_like_one_over_n(digits):
    real, train, features = digits
    real, train = features(real), features(train)
    for n in (250, 500, 1000):
        pairs = [(train[i : i + n], real[i % 1000 : i % 1000 + n]) for i in range(0, 4000, n)]
        mean = np.mean([frechet_distance(*moments(a), *moments(b)).item() for a, b in pairs])
        assert abs(mean * n / 4500 - 1) < 0.25


def test_which_faults_of_digits_the_scores_see(digits):
    real, train, features = digits
    clean = train[:1000]
    blurred = torch.from_numpy(
        ndimage.gaussian_filter(clean.numpy(), (0, 0, 1.2, 1.2), mode="constant")
    )
    moved = torch.from_numpy(np.roll(clean.numpy(), 2, axis=3))
    grain = torch.from_numpy(np.random.default_rng(6).normal(size=clean.shape)).float()
    faults = [
        clean + 0.1 * grain,
        clean + 0.3 * grain,
        blurred,
        moved,
        clean[:100].repeat(10, 1, 1, 1),
        0.5 + 0.3 * grain,
    ]
    of_real = features(real)
    clean_row, *rows = (
        list(evaluate_features(of_real, features(x), features.name).values())[1:]
        for x in [clean, *faults]
    )
    assert clean_row[0] < 6
    assert all(row[0] > 2 * clean_row[0] and row[2] < clean_row[2] - 0.05 for row in rows)
    noisy, noisier, smooth, shifted, copies, noise = rows
    assert shifted[0] < 0.15 * smooth[0]
    assert (moved - clean).square().mean() > 4 * (blurred - clean).square().mean()
    assert copies[2] < 0.01
    assert min(noisy[1], noisier[1]) > clean_row[1] - 0.02
    assert smooth[1] > clean_row[1]
    assert noise[1] > 0.95
    assert shifted[1] < clean_row[1] - 0.1


def test_density_coverage_and_kernel_distance_of_spoilt_digits(digits):
    real, train, features = digits
    clean = train[:1000]
    noise = torch.from_numpy(np.random.default_rng(10).normal(0.5, 0.3, clean.shape)).float()
    copies = clean[:100].repeat(10, 1, 1, 1)
    of_real = features(real)
    (good, _), (bad, far), (same, _) = (
        (density_coverage(of_real, features(x)), kernel_distance(of_real, features(x)))
        for x in (clean, noise, copies)
    )
    assert min(good) > 0.9
    assert bad.density < 0.5
    assert bad.coverage < 0.03
    assert same.density > 0.9
    assert same.coverage < 0.5
    both = torch.cat([of_real, features(train)])
    rng = np.random.default_rng(11)
    draws = [rng.permutation(len(both))[:2000] for _ in range(30)]
    values = np.array([kernel_distance(*both[draw].split(1000)) for draw in draws])
    assert abs(values.mean()) < 4 * values.std() / 30**0.5
    assert 5 < values.std() < 30
    assert far > 50 * values.std()


def test_one_wide_ball_makes_noise_precise(digits):
    real, _, features = digits
    noise = torch.from_numpy(np.random.default_rng(7).normal(0.5, 0.3, (500, 1, 28, 28))).float()
    of_real, of_noise = features(real).double().numpy(), features(noise).double().numpy()
    radii = np.partition(spatial.distance.cdist(of_real, of_real), 3, axis=1)[:, 3]
    inside = spatial.distance.cdist(of_noise, of_real) <= radii
    assert inside.mean(0).max() > 0.95
    assert inside[:, radii < np.quantile(radii, 0.95)].any(1).mean() < 0.1


def test_unequal_modes_raise_kl_as_a_blur_does():
    """All eight modes without blur, their shares from 30 % down to 5 %."""
    density = toy_density("8gaussians")
    shares = torch.tensor([0.30, 0.20, 0.13, 0.10, 0.09, 0.07, 0.06, 0.05])
    scores = []
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        mode = torch.multinomial(shares, 5000, replacement=True, generator=g)
        noise = density.std * torch.randn(5000, 2, generator=g)
        scores.append(
            histogram_divergences(
                density.sample(5000, g), density.centers[mode] + noise, density.extent
            )[:2]
        )
    kl, jsd = torch.tensor(scores).mean(0).tolist()
    assert kl == pytest.approx(2, abs=0.4)
    assert jsd == pytest.approx(0.7, abs=0.15)
