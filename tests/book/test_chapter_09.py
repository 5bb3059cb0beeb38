"""Claims of the chapter on images, and, at the end, its labelled equations, which belong into
test_equations.py."""

import math

import numpy as np
import pytest
import torch
from conftest import ROOT, build, tiny_config
from scipy import optimize
from torch.utils.flop_counter import FlopCounterMode

from asintrovae import (
    VAE,
    RunConfig,
    SoftIntroVAE,
    as_distance,
    build_data,
    build_model,
    load_run,
)
from asintrovae.randomness import generator_for
from asintrovae.running.loop import Loop
from asintrovae.theory.batchnorm import evaluating
from asintrovae.theory.networks import PUBLISHED_WIDTHS, conv_autoencoder
from asintrovae.theory.objectives import Noise

pytestmark = pytest.mark.xdist_group("chapter_09")  # one worker makes its fixtures once


@pytest.fixture(scope="module")
def digits():
    """Training digits, (6000, 784), numpy."""
    data = build_data(RunConfig(dataset="mnist-subset", batch_size=8, device="cpu", run_dir="-"))
    return data.train.flatten(1).numpy() / 255.0


@pytest.fixture(scope="module")
def spectrum(digits):
    """Variances along the principal axes, by singular values."""
    return np.linalg.svd(digits - digits.mean(0), compute_uv=False) ** 2 / len(digits)


def linear_optimum(variances, noise):
    """(KL, R of a draw, R from the mean) of one axis each, minimised numerically over w >= 0 and
    the encoder."""
    rows = []
    for variance in variances:

        def loss(p, variance=variance):
            w, v, log_var = p
            rec = variance * (1 - w * v) ** 2 + w**2 * math.exp(log_var)
            return rec / (2 * noise) + 0.5 * (v**2 * variance + math.exp(log_var) - 1 - log_var)

        w, v, log_var = optimize.minimize(loss, (0.5, 0.5, 0.0), tol=1e-12).x
        from_mean = variance * (1 - w * v) ** 2
        kl = 0.5 * (v**2 * variance + math.exp(log_var) - 1 - log_var)
        rows.append((kl, from_mean + w**2 * math.exp(log_var), from_mean))
    return np.array(rows).sum(0)


def test_linear_optimum_at_the_published_weights(spectrum):
    """22 axes, 10.2 nats, MSE 0.029: three times the 0.009 of the table.

    The axes below the noise keep their variance.
    """
    assert (spectrum > 0.5).sum() == 22
    kl, drawn, from_mean = linear_optimum(spectrum[:25], 0.5)
    rest = spectrum[25:].sum()
    assert abs(kl - 10.2) < 0.05
    assert abs(drawn + rest - 28.6) < 0.05
    assert abs((from_mean + rest) / 784 - 0.0292) < 5e-5
    assert abs(drawn + rest + kl - 784 * 0.009 - 31.8) < 0.1


def test_where_a_linear_vae_reaches_the_published_error(spectrum):
    """From the mean, beta_kl 0.12 with 91 axes; and no weights help 32 axes below 0.0172."""

    def error(noise):
        return np.minimum(spectrum, noise**2 / np.maximum(spectrum, 1e-12)).sum() / 784

    noise = optimize.brentq(lambda s: error(s) - 0.009, 1e-3, 0.5)
    assert round(2 * noise, 2) == 0.12
    assert (spectrum > noise).sum() == 91
    assert abs(spectrum[32:].sum() / 784 - 0.0172) < 5e-5


def test_a_pixel_is_below_the_noise_and_a_direction_above(digits, spectrum):
    assert digits.var(0).max() < 0.25 < 0.5 < spectrum[0]


def test_doubled_pixels_have_four_times_the_variance(digits):
    small = digits[:500].reshape(-1, 28, 28)[:, ::4, ::4]
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    a, b = (np.linalg.eigvalsh(np.cov(x.reshape(len(x), -1).T))[::-1] for x in (small, large))
    np.testing.assert_allclose(b[: len(a)], 4 * a, atol=1e-10)


def test_multiply_adds_of_the_smallest_network_by_hand():
    """5x5 and two 3x3 convolutions, and the head: one multiply-add per weight and place."""
    with torch.device("meta"):
        model = conv_autoencoder((3, 4, 4), 5, (4,)).eval()
        x = torch.empty(1, 3, 4, 4)
    with FlopCounterMode(display=False) as counter:
        model.encode(x)
    assert counter.get_total_flops() / 2 == 25 * 3 * 4 * 16 + 2 * (9 * 4 * 4) * 4 + (4 * 2 * 2) * 10


def test_cost_grows_eightyfold_while_parameters_grow_sevenfold():
    sizes, flops = [], []
    for size, n in ((32, 128), (256, 256)):
        with torch.device("meta"):
            model, x = (
                conv_autoencoder((3, size, size), n, PUBLISHED_WIDTHS[size]).eval(),
                torch.empty(1, 3, size, size),
            )
        with FlopCounterMode(display=False) as counter:
            model.decode(model.encode(x).mean)
        sizes.append(sum(p.numel() for p in model.parameters()))
        flops.append(counter.get_total_flops())
    assert round(sizes[1] / sizes[0]) == 7
    assert 80 < flops[1] / flops[0] < 90


@pytest.mark.parametrize(
    ("model", "calls"),
    [(VAE(), (1, 1)), (SoftIntroVAE(), (6, 6)), (SoftIntroVAE(gamma_r=1e-6), (6, 8))],
)
def test_calls_of_an_iteration(tmp_path, model, calls):
    config = tiny_config(tmp_path, dataset="mnist-subset", widths=(4,), batch_size=8)
    data, network, _ = build(config)
    seen = []
    for half in ("encoder", "decoder"):
        getattr(network, half).register_forward_hook(lambda *_, half=half: seen.append(half))
    for phase in model.phases:
        phase.loss(
            network, data.batch(0), Noise.draw(8, config.latent_dim, generator_for(0, "noise")), 0.0
        )
    assert (seen.count("encoder"), seen.count("decoder")) == calls


@pytest.mark.parametrize("kinds", [3, 4])
def test_shares_of_the_kinds_in_a_running_average(kinds):
    """PyTorch's own average, fed with a mean of its own per kind in turn."""
    layer = torch.nn.BatchNorm1d(kinds).double()
    for i in range(
        200 * kinds
    ):  # channel j is 1 for kind j only; the last call is of the last kind
        layer(torch.eye(kinds, dtype=torch.float64)[i % kinds].expand(5, kinds))
    shares = [0.1 * 0.9**j / (1 - 0.9**kinds) for j in range(kinds)]
    np.testing.assert_allclose(layer.running_mean.flip(0), shares, rtol=1e-6)


def test_contrast_of_a_whole_batch_is_invisible_in_training_mode_alone(generator):
    model = conv_autoencoder((1, 8, 8), 3, (4, 8))
    x = torch.rand(32, 1, 8, 8, generator=generator)
    full, pale = (model.train().encode(c * x) for c in (1.0, 0.5))
    assert (full.mean - pale.mean).abs().max() < 1e-2 * full.mean.std()
    with evaluating(model):
        full, pale = (model.encode(c * x) for c in (1.0, 0.5))
    assert (full.mean - pale.mean).abs().max() > 0.1 * full.mean.std()


def test_the_posterior_of_an_image_depends_on_its_batch_in_training_mode_alone(generator):
    model = conv_autoencoder((1, 8, 8), 3, (4, 8))
    x, other = torch.rand(2, 16, 1, 8, 8, generator=generator)
    for training in (True, False):
        model.train(training)
        alone, beside = model.encode(x).mean, model.encode(torch.cat([x, 3 * other])).mean[:16]
        assert torch.allclose(alone, beside, atol=1e-5) != training


def encoder_after(optimizer, whole, elbo):
    """Weights of a small encoder after three steps on the encoder's loss, rescaled as a whole or in
    its ELBO."""
    config = RunConfig(
        dataset="mnist-subset", widths=(4,), latent_dim=4, batch_size=8, device="cpu", run_dir="-"
    )
    data, model = build_data(config), build_model(config, (1, 28, 28)).double()
    steps = optimizer(model.encoder.parameters(), lr=1e-3)
    for i in range(3):
        noise = Noise(*(t.double() for t in Noise.draw(8, 4, generator_for(0, "noise", i))))
        loss, terms = SoftIntroVAE(1.0, 1.0, 256.0).encoder_loss(
            model, data.batch(i).double(), noise, 0.0
        )
        steps.zero_grad()
        (whole * (loss + (elbo - 1) / 784 * (terms["rec"] + terms["kl"]))).backward()
        steps.step()
    return torch.nn.utils.parameters_to_vector(model.encoder.parameters())


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_adam_hears_of_kappa_only_beside_the_exponential(optimizer):
    plain = encoder_after(optimizer, 1.0, 1.0)
    whole, elbo = (
        encoder_after(optimizer, 784.0, 1.0) - plain,
        encoder_after(optimizer, 1.0, 784.0) - plain,
    )
    assert (whole.norm() < 0.02 * elbo.norm()) == (optimizer is torch.optim.Adam)


def test_reach_and_balance_of_the_published_settings():
    """alpha = 2; the balance K* by root finding on the slope of the loss in K, all posteriors
    alike."""
    for numbers, beta_kl, beta_neg, reach, balance in (
        (784, 1, 256, 1.53, 8.5),
        (196_608, 0.5, 1024, 96, 732),
    ):
        kappa = 1 / numbers
        assert abs(1 / (2 * kappa * beta_neg) - reach) < 0.005

        def slope(k, kappa=kappa, beta_kl=beta_kl, beta_neg=beta_neg):
            return kappa * beta_kl - kappa * beta_neg * math.exp(-2 * kappa * beta_neg * k)

        assert abs(optimize.brentq(slope, 0, 5000) - balance) < 0.1


def test_the_exponential_without_kappa_is_exactly_zero():
    """Five nats and no error of reconstruction are enough."""
    kl = torch.tensor(5.0, requires_grad=True)
    for kappa, gone in ((1.0, True), (1 / 784, False)):
        (slope,) = torch.autograd.grad(torch.exp(-2 * kappa * 256 * kl), kl)
        assert (slope == 0) == gone


def test_product_distance_is_lost_at_32_axes_and_the_mean_is_not(generator):
    mu_r, mu_g = 0.7 * torch.randn(2, 128, 32, generator=generator)
    var = torch.full((128, 32), 0.5)
    assert as_distance(mu_r, var, 0.8 * mu_g, var, "mean") > 1e-4
    assert as_distance(mu_r, var, 0.8 * mu_g, var, "product").abs() < 1e-10


def test_an_average_still_holds_the_start(tmp_path):
    """0.999 on 1,000 iterations: 37 % of the initial weights. So it is off by default."""
    assert RunConfig().ema == 0
    data, model, objective = build(tiny_config(tmp_path, model="soft_intro"))
    average = Loop(model, objective, data, tiny_config(tmp_path, ema=0.999)).average
    kept, weights = [torch.ones(1)], [torch.zeros(1)]
    for _ in range(1000):
        average(kept, weights, None)
    assert abs(kept[0] - 0.368) < 1e-3


def test_a_deep_vae_goes_below_the_best_linear_one_at_nearly_equal_nats(spectrum):
    """What the chapter says of the two recorded runs, and of the linear VAE beside them."""
    text = " ".join((ROOT / "book" / "src" / "09_points_to_images.md").read_text().split())
    runs = ROOT / "data" / "runs" / "mnist_ten_epochs"
    plain, sharp = (load_run(runs / name / "0").record["metrics"] for name in ("vae", "vae-kl0.1"))
    words = f"an MSE of {plain['mse']:.3f}, or {plain['psnr']:.1f} dB, at {plain['kl']:.1f} nats"
    assert words in text
    words = f"it has {sharp['mse']:.4f}, or {sharp['psnr']:.1f} dB, at {sharp['kl']:.1f} nats"
    assert words in text
    nats = 0.5 * np.log(np.maximum(spectrum / 0.5, 1)).sum()
    linear = np.minimum(spectrum, 0.25 / spectrum.clip(1e-12)).sum() / 784
    assert plain["kl"] < nats + 3
    assert plain["mse"] < linear / 2
