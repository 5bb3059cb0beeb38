import math

import pytest
import torch

from asintrovae import histogram_divergences, mse, ssim
from asintrovae.data import toy_density
from asintrovae.gaussian import Gaussian
from asintrovae.metrics import evaluating, information_per_axis, modes_found
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


def test_image_metrics_by_hand(generator):
    x = torch.rand(4, 1, 28, 28, generator=generator)
    shifted = x + torch.tensor([0.1, 0.2, 0.1, 0.2]).reshape(4, 1, 1, 1)
    assert math.isclose(mse(x, shifted), 0.025, rel_tol=1e-5)
    assert math.isclose(ssim(x, x), 1.0, rel_tol=1e-5)
    assert ssim(x, torch.rand(4, 1, 28, 28, generator=generator)) < 0.1


def test_evaluation_mode_is_left_as_it_was():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    before = model[0].running_mean.clone()
    with evaluating(model):
        model(torch.randn(8, 2))
        assert not torch.is_grad_enabled()
    assert model.training
    assert torch.equal(model[0].running_mean, before)


def test_information_per_axis_against_closed_forms(generator):
    """x ~ N(0, 1), mean vx, variance λ: I = log(1 + v²/λ)/2; the prior and one posterior for all tell nothing."""
    x = torch.randn(1500, 1, generator=generator, dtype=torch.float64)
    v, var = torch.tensor([[0.0, 0.0, 0.75**0.5, 0.05]]).double(), torch.tensor([1.0, 0.5, 0.25, 1e-4]).double()
    q = Gaussian(v * x + torch.tensor([0.0, 1.8, 0.0, 0.0]), var.log().expand(len(x), -1))
    found = information_per_axis(q, torch.randn(q.mean.shape, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(found, 0.5 * (1 + v[0] ** 2 / var).log(), atol=0.06, rtol=0)
    assert found[:2].abs().max() < 1e-12
    apart = Gaussian(1e3 * x[:50], torch.zeros(50, 1, dtype=torch.float64))
    assert found.max() < math.log(1500)
    assert abs(information_per_axis(apart, torch.zeros_like(apart.mean)) - math.log(50)) < 0.05
