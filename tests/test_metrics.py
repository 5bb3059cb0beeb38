import math

import pytest
import torch

from asintrovae import Gaussian, frechet_distance, histogram_divergences, mse, psnr, ssim
from asintrovae.data import toy_density
from asintrovae.metrics import active_units, evaluating, modes_found
from asintrovae.randomness import generator_for


@pytest.mark.parametrize(
    ("name", "kl", "kl_sd", "jsd", "jsd_sd"), [("8gaussians", 0.66, 0.16, 0.32, 0.04), ("checkerboard", 17.1, 0.4, 8.1, 0.2)]
)
def test_protocol_reaches_the_floor_of_a_perfect_sampler(generator, name, kl, kl_sd, jsd, jsd_sd):
    """Two samples of the data against each other, 20 times: the lowest score the published tables can hold."""
    density = toy_density(name)
    draws = [histogram_divergences(density.sample(5000, generator), density.sample(5000, generator), density.extent)
             for _ in range(20)]  # fmt: skip
    protocol = torch.tensor([(d.protocol_kl, d.protocol_jsd) for d in draws])
    for mean, expected, sd in zip(protocol.mean(0).tolist(), (kl, jsd), (kl_sd, jsd_sd), strict=True):
        assert abs(mean - expected) < 3 * sd / math.sqrt(20) + 0.02 * expected
    assert all(0 < d.jsd_nats < math.log(2) for d in draws)


def test_a_cloud_that_meets_no_data_scores_the_ceiling(generator):
    """All points where no data are: the row of the VAE in the 8-Gaussians table, KL 220, "JSD" 110."""
    real = toy_density("8gaussians").sample(5000, generator)
    collapsed = 0.02 * torch.randn(5000, 2, generator=generator)
    scores = histogram_divergences(real, collapsed, (-2.0, 2.0))
    assert abs(scores.protocol_kl - 220) < 3
    assert abs(scores.protocol_jsd - 110) < 5
    torch.testing.assert_close(scores.jsd_nats, math.log(2), rtol=1e-6, atol=0)


def test_divergences_of_a_cloud_with_itself_are_zero(generator):
    points = toy_density("rings").sample(1000, generator)
    assert max(map(abs, histogram_divergences(points, points, (-4.0, 4.0)))) < 1e-9


def test_divergences_by_hand():
    """Two cells, P = (1, 0), Q = (1/2, 1/2) as probabilities; the histogram has four cells of area 1."""
    real = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    fake = torch.tensor([[0.5, 0.5], [1.5, 0.5]])
    scores = histogram_divergences(real, fake, (0.0, 2.0), bins=2)
    assert math.isclose(scores.kl_nats, math.log(2), rel_tol=1e-9)
    assert math.isclose(scores.protocol_kl, math.log(2) / 100, rel_tol=1e-9)
    # M = (3/4, 1/4): the true JSD, and the reversed one, which pays log(1e14) for the cell where P is empty.
    true = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert math.isclose(scores.jsd_nats, true, rel_tol=1e-9)
    kl_mp = 0.75 * math.log(0.75) + 0.25 * math.log(0.25 / 1e-14)
    kl_mq = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert math.isclose(scores.protocol_jsd, (kl_mp + kl_mq) / 200, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (torch.zeros(3), r"fake must be finite points of shape \(count, 2\), got shape \(3,\)"),
        (torch.full((3, 2), math.nan), "fake must be finite points"),
        (torch.full((3, 2), 9.0), "fake has no point inside extent"),
    ],
)
def test_bad_clouds_are_named(fake, words):
    with pytest.raises(ValueError, match=words):
        histogram_divergences(torch.zeros(3, 2), fake, (-1.0, 1.0))


def test_samples_and_test_points_do_not_share_their_randomness():
    assert not torch.equal(*(torch.randn(9, generator=generator_for(0, p)) for p in ("evaluation", "samples")))


def test_modes_found_counts_modes(generator):
    density = toy_density("8gaussians")
    points = density.sample(5000, generator)
    assert modes_found(points, density.centers, 0.2) == 8
    assert modes_found(points[(points[:, 0] > 0.1)], density.centers, 0.2) == 3
    assert modes_found(torch.zeros(100, 2), density.centers, 0.2) == 0


def test_frechet_distance_closed_forms(generator):
    zero, eye = torch.zeros(3).double(), torch.eye(3).double()
    assert abs(frechet_distance(zero, eye, zero, eye)) < 1e-12
    shifted = frechet_distance(zero, eye, torch.tensor([1.0, 2.0, 0.0]).double(), eye)
    assert math.isclose(shifted, 5.0, rel_tol=1e-12)
    scales = torch.tensor([1.0, 4.0, 9.0]).double()  # commuting covariances: Σ (σ_a - σ_b)²
    assert math.isclose(frechet_distance(zero, scales.diag(), zero, eye), 0 + 1 + 4, rel_tol=1e-12)
    a, b = torch.randn(2, 3, 3, generator=generator).double() @ torch.randn(3, 3, generator=generator).double()
    cov_a, cov_b = a @ a.T, b @ b.T  # singular values of a^T b: the nuclear norm is tr (C_a^½ C_b C_a^½)^½
    expected = cov_a.trace() + cov_b.trace() - 2 * torch.linalg.svdvals(a.T @ b).sum()
    torch.testing.assert_close(frechet_distance(zero, cov_a, zero, cov_b), expected, rtol=1e-8, atol=1e-8)


def test_image_metrics_by_hand(generator):
    x = torch.rand(4, 1, 28, 28, generator=generator)
    shifted = x + torch.tensor([0.1, 0.2, 0.1, 0.2]).reshape(4, 1, 1, 1)
    assert math.isclose(mse(x, shifted), 0.025, rel_tol=1e-5)
    assert math.isclose(psnr(x, shifted), -10 * (math.log10(0.01) + math.log10(0.04)) / 2, rel_tol=1e-5)
    assert math.isclose(ssim(x, x), 1.0, rel_tol=1e-5)
    assert ssim(x, torch.rand(4, 1, 28, 28, generator=generator)) < 0.1


def test_active_units_counts_axes_that_carry_information(generator):
    mean = torch.randn(500, 3, generator=generator) * torch.tensor([1.0, 0.01, 0.5])
    assert active_units(Gaussian(mean, torch.zeros_like(mean))) == 2


def test_evaluation_mode_is_left_as_it_was():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    before = model[0].running_mean.clone()
    with evaluating(model):
        model(torch.randn(8, 2))
        assert not torch.is_grad_enabled()
    assert model.training
    assert torch.equal(model[0].running_mean, before)
