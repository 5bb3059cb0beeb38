import math

import pytest
import torch
from conftest import build, tiny_config

from asintrovae import (
    build_features,
    density_coverage,
    evaluate,
    histogram_divergences,
    kernel_distance,
    mse,
    precision_recall,
    psnr,
    ssim,
)
from asintrovae.data import toy_density
from asintrovae.data.image_files import write_row
from asintrovae.evaluation.evaluate import evaluate_features, evaluate_points, reconstruct
from asintrovae.evaluation.feature_cache import real_features
from asintrovae.evaluation.features import FeatureNetwork, mnist_classifier
from asintrovae.evaluation.measures import (
    active_units,
    information_per_axis,
    modes_found,
    moments,
    steepest_edge,
)
from asintrovae.randomness import generator_for
from asintrovae.theory.batchnorm import evaluating
from asintrovae.theory.gaussian import Gaussian
from asintrovae.theory.networks import conv_autoencoder


@pytest.mark.parametrize(
    ("name", "kl", "kl_sd", "jsd", "jsd_sd"),
    [("8gaussians", 0.66, 0.16, 0.32, 0.04), ("checkerboard", 17.1, 0.4, 8.1, 0.2)],
)
def test_protocol_reaches_the_floor_of_a_perfect_sampler(generator, name, kl, kl_sd, jsd, jsd_sd):
    """Two samples of the data against each other, 20 times: the lowest score the published tables
    can hold."""
    density = toy_density(name)

    def draw():
        return density.sample(5000, generator)

    draws = [histogram_divergences(draw(), draw(), density.extent) for _ in range(20)]
    protocol = torch.tensor([(d.protocol_kl, d.protocol_jsd) for d in draws])
    for mean, expected, sd in zip(
        protocol.mean(0).tolist(), (kl, jsd), (kl_sd, jsd_sd), strict=True
    ):
        assert abs(mean - expected) < 3 * sd / math.sqrt(20) + 0.02 * expected
    assert all(0 < d.jsd_nats < math.log(2) for d in draws)


def test_a_cloud_that_meets_no_data_scores_the_ceiling(generator):
    """All points where no data are: the VAE's row in the 8-Gaussians table, KL 220, "JSD" 110."""
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
    assert not torch.equal(
        *(torch.randn(9, generator=generator_for(0, p)) for p in ("evaluation", "samples"))
    )


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


OTHER_RANGES = {
    "bytes": lambda x: (255 * x).byte(),
    "0..255": lambda x: 255 * x,
    "-1..1": lambda x: 2 * x - 1,
}


@pytest.mark.parametrize("to_range", OTHER_RANGES.values(), ids=OTHER_RANGES)
def test_images_in_another_range_are_refused(generator, tmp_path, to_range):
    x = torch.rand(2, 1, 16, 16, generator=generator)
    other, ways_out = to_range(x), r"divide 0\.\.255 by 255, and map -1\.\.1 by \(x \+ 1\) / 2"
    for measure in (mse, psnr, ssim):
        for given, name in (((other, other), "x"), ((other, x), "x"), ((x, other), "x_hat")):
            with pytest.raises(ValueError, match=rf"^{name} (holds|runs from) [^\n]+; {ways_out}"):
                measure(*given)
    network = FeatureNetwork("mnist-classifier", mnist_classifier(), 1, torch.device("cpu"))
    calls = [lambda: write_row(tmp_path / "row.png", other)]
    calls.append(lambda: reconstruct(conv_autoencoder((1, 16, 16), 2, (2,)), other))
    if other.dtype != torch.uint8:  # what feature networks look at
        calls += [lambda: network(other), lambda: real_features(network, other, "mnist", "test")]
    for call in calls:
        with pytest.raises(ValueError, match=ways_out):
            call()
    assert not list(tmp_path.iterdir())


def test_what_a_decoder_makes_passes_though_it_leaves_the_range(generator):
    x = torch.rand(4, 1, 28, 28, generator=generator)
    noisy = x + 0.3 * torch.randn(x.shape, generator=generator)
    assert noisy.min() < -0.3
    assert noisy.max() > 1.3
    assert all(measure(x, noisy).isfinite() for measure in (mse, psnr, ssim))
    broken = noisy.clone()
    broken[0, 0, 0, :2] = torch.tensor([math.nan, math.inf])
    assert mse(x, broken).isnan()
    with pytest.raises(ValueError, match="x runs from"):
        psnr(noisy, x)


@pytest.mark.parametrize("scale", [1e4, math.nan, math.inf])
def test_a_decoder_that_has_diverged_is_evaluated(scale, tmp_path):
    here = {
        "dataset": "mnist-subset",
        "widths": (2, 2),
        "batch_size": 4,
        "feature_network": "mnist-classifier",
    }
    run = tiny_config(tmp_path, **here, evaluation_samples=8)
    data, model, _ = build(run)
    with torch.no_grad():
        model.decoder[-1].bias.fill_(scale)
    metrics = evaluate(model, data, run, build_features(run))
    assert metrics["evaluation_samples"] == 8
    assert math.isnan(metrics["psnr"]) == math.isnan(scale)
    assert math.isnan(metrics["frechet_mnist_classifier"]) == (not math.isfinite(scale))


@pytest.mark.parametrize("measure", [mse, psnr, ssim])
def test_shapes_that_differ_are_refused(measure):
    with pytest.raises(
        ValueError,
        match=r"x has shape \(2, 3, 16, 16\), x_hat \(2, 1, 16, 16\); give one reconstruction",
    ):
        measure(torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16))


class OnDevice(torch.Tensor):
    """A tensor of a device that has no float64, as mps."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.double:
            raise TypeError("no float64 on this device")
        found = super().__torch_function__(function, types, args, kwargs or {})
        return found.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else found


def test_float64_is_made_on_the_cpu(generator):
    points = torch.rand(2, 50, 2, generator=generator)
    here, there = points, points.as_subclass(OnDevice)
    with pytest.raises(TypeError, match="no float64"):
        there.double()
    assert histogram_divergences(*there, (0.0, 1.0)) == histogram_divergences(*here, (0.0, 1.0))
    for measure in (precision_recall, kernel_distance, density_coverage):
        assert measure(*there) == measure(*here)
    assert all(torch.equal(a, b) for a, b in zip(moments(there[0]), moments(here[0]), strict=True))
    assert evaluate_features(*there, "inception") == evaluate_features(*here, "inception")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_measures_that_few_images_do_not_allow_are_none_with_the_reason(generator, count):
    real, fake = torch.rand(2, count, 5, generator=generator)
    found = evaluate_features(real, fake, "inception")
    needed = {"fid": 2, "precision_inception": 4, "recall_inception": 4}
    needed |= {"kid_inception": 2, "density_inception": 6, "coverage_inception": 6}
    assert {name for name in needed if found[name] is not None} == {
        name for name, least in needed.items() if count >= least
    }
    reasons = {
        name: f"needs at least {least} images, got {count}"
        for name, least in needed.items()
        if count < least
    }
    assert found.get("not_measured", {}) == reasons


def test_one_example_has_no_variance():
    one = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="q has 1 examples, a variance needs at least 2"):
        active_units(Gaussian(one, one))
    with pytest.raises(ValueError, match="features has 1 examples, a covariance needs at least 2"):
        moments(one)


def test_divergences_without_a_point_inside_are_none_with_the_reason(tmp_path):
    run = tiny_config(tmp_path)
    data, _, _ = build(run)
    found = evaluate_points(data.evaluation(20), torch.full((20, 2), 9.0), data)
    assert found["outside"] == 1
    reason = "no generated point lies inside the histogram of (-2.0, 2.0)²"
    assert found["not_measured"] == {
        name: reason for name in ("protocol_kl", "protocol_jsd", "kl_nats", "jsd_nats")
    }
    assert all(found[name] is None for name in found["not_measured"])


def test_evaluation_mode_is_left_as_it_was():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
    before = model[0].running_mean.clone()
    with evaluating(model):
        model(torch.randn(8, 2))
        assert not torch.is_grad_enabled()
    assert model.training
    assert torch.equal(model[0].running_mean, before)


def test_information_per_axis_against_closed_forms(generator):
    """x ~ N(0, 1), mean vx, variance λ: I = log(1 + v²/λ)/2; the prior and one posterior for all
    tell nothing."""
    x = torch.randn(1500, 1, generator=generator, dtype=torch.float64)
    v, var = (
        torch.tensor([[0.0, 0.0, 0.75**0.5, 0.05]]).double(),
        torch.tensor([1.0, 0.5, 0.25, 1e-4]).double(),
    )
    q = Gaussian(v * x + torch.tensor([0.0, 1.8, 0.0, 0.0]), var.log().expand(len(x), -1))
    found = information_per_axis(
        q, torch.randn(q.mean.shape, generator=generator, dtype=torch.float64)
    )
    torch.testing.assert_close(found, 0.5 * (1 + v[0] ** 2 / var).log(), atol=0.06, rtol=0)
    assert found[:2].abs().max() < 1e-12
    apart = Gaussian(1e3 * x[:50], torch.zeros(50, 1, dtype=torch.float64))
    assert found.max() < math.log(1500)
    assert abs(information_per_axis(apart, torch.zeros_like(apart.mean)) - math.log(50)) < 0.05


def test_blur_lowers_the_steepest_edge():
    """A bar of any brightness has 1; a mean over three pixels leaves a third; black has 0."""
    bar = torch.zeros(3, 1, 12, 12)
    bar[0, ..., 3:7], bar[1, ..., 3:7] = 1, 0.5
    torch.testing.assert_close(steepest_edge(bar), torch.tensor([1.0, 1.0, 0.0]))
    blurred = torch.nn.functional.avg_pool2d(bar, (1, 3), 1, (0, 1))
    torch.testing.assert_close(steepest_edge(blurred), torch.tensor([1.0, 1.0, 0.0]) / 3)
    with pytest.raises(ValueError, match="images"):
        steepest_edge(bar * 255)
