"""The labelled equations that the package computes, each by means that share nothing with its code:
quadrature, Monte-Carlo, a literal transcription. test_equation_index.py holds this file against the
book."""

import copy
import itertools
import math
import threading

import numpy as np
import pytest
import torch
from conftest import build, tiny_config
from scipy import integrate, signal, spatial, stats
from torch.nn import functional

from asintrovae import (
    VAE,
    WGANGP,
    ASIntroVAE,
    Gaussian,
    IntroVAE,
    SoftIntroVAE,
    annealing_weight,
    as_distance,
    density_coverage,
    expected_likelihood_kernel,
    frechet_distance,
    histogram_divergences,
    kernel_distance,
    kl_to_standard_normal,
    precision_recall,
    psnr,
    ssim,
)
from asintrovae.collectives import average_, gather, share
from asintrovae.evaluation.measures import active_units
from asintrovae.randomness import PURPOSES, generator_for
from asintrovae.running.loop import Loop
from asintrovae.theory.batchnorm import STATISTICS_BATCHES, BatchNorm2d, precise_batchnorm
from asintrovae.theory.networks import (
    FourierFeatures,
    ResidualBlock,
    conv_autoencoder,
    mlp_autoencoder,
    mlp_gan,
)
from asintrovae.theory.objectives import Noise
from asintrovae.theory.objectives.base import annealed

B, N = 6, 2
equation = (
    pytest.mark.equation
)  # labels of the equations a test checks; test_equation_index.py holds them against the book


def posteriors(generator, batch, n):
    return torch.randn(batch, n, generator=generator).double(), torch.rand(
        batch, n, generator=generator
    ).double() + 0.2


def quadrature(mu_a, var_a, mu_b, var_b, prior):
    """∫ w q_a q_b dz over R^n for independent axes: the product of n one-dimensional integrals."""
    value = 1.0
    for ma, va, mb, vb in zip(
        mu_a.tolist(), var_a.tolist(), mu_b.tolist(), var_b.tolist(), strict=True
    ):
        a, b = stats.norm(ma, math.sqrt(va)), stats.norm(mb, math.sqrt(vb))
        weight = stats.norm.pdf if prior else (lambda z: 1.0)
        value *= integrate.quad(
            lambda z, a=a, b=b, w=weight: w(z) * a.pdf(z) * b.pdf(z), -20, 20, points=[ma, mb]
        )[0]
    return value


@equation("eq-vae-reparameterisation")
def test_samples_have_the_moments_asked_for(generator):
    q = Gaussian(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -1.5]]))
    z = q.sample(torch.randn(200_000, 2, generator=generator))
    torch.testing.assert_close(z.mean(0), q.mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), q.var[0], atol=0.03, rtol=0)


@equation("eq-vae-kl")
def test_kl_equals_quadrature():
    mean, logvar = 0.7, -1.1
    q = stats.norm(mean, math.exp(logvar / 2))
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z)), -12, 12)
    kl = kl_to_standard_normal(
        torch.tensor([[mean]], dtype=torch.float64), torch.tensor([[logvar]], dtype=torch.float64)
    )
    assert abs(kl.item() - expected) < 1e-9


@equation("eq-kernel-lebesgue", "eq-kernel-prior")
@pytest.mark.parametrize("weight", ["lebesgue", "prior"])
def test_kernel_closed_forms_equal_quadrature(generator, weight):
    a, b = posteriors(generator, 3, 3), posteriors(generator, 4, 3)
    gram = expected_likelihood_kernel(*a, *b, weight)
    for i in range(3):
        for j in range(4):
            expected = quadrature(a[0][i], a[1][i], b[0][j], b[1][j], weight == "prior")
            assert math.isclose(gram[i, j], expected, rel_tol=1e-8)


@equation("eq-kernel-mean")
@pytest.mark.parametrize("weight", ["lebesgue", "prior"])
def test_mean_reduction_is_the_mean_of_the_axes(generator, weight):
    a, b = posteriors(generator, 3, 4), posteriors(generator, 2, 4)
    axes = [
        expected_likelihood_kernel(a[0][:, [d]], a[1][:, [d]], b[0][:, [d]], b[1][:, [d]], weight)
        for d in range(4)
    ]
    expected = math.sqrt(2 * math.pi) * torch.stack(axes).mean(0)
    torch.testing.assert_close(expected_likelihood_kernel(*a, *b, weight, "mean"), expected)


@equation("eq-kernel-prior")
def test_prior_kernel_equals_monte_carlo(generator):
    """Eq. 5: k(x, y) = E_{z ~ p(z)} q(z|x) q(z|y)."""
    a, b = posteriors(generator, 1, 2), posteriors(generator, 1, 2)
    z = torch.randn(400_000, 2, generator=generator).double()
    q_a, q_b = (Gaussian(mu, var.log()) for mu, var in (a, b))
    draws = (q_a.log_prob(z) + q_b.log_prob(z)).exp()
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - expected_likelihood_kernel(*a, *b, "prior").item()) < 4 * error


@equation("eq-as-distance", "eq-kernel-trick")
@pytest.mark.parametrize("kernel", ["product", "prior"])
def test_distance_is_the_squared_l2_distance_of_aggregate_posteriors(generator, kernel):
    """Eq. 3 = Eq. 5: ∫ w (Q_r - Q_g)² dz on a grid, n = 2."""
    r, g = posteriors(generator, 4, 2), posteriors(generator, 5, 2)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    q_r, q_g = (
        Gaussian(mu[:, None], var.log()[:, None]).log_prob(z).exp().mean(0) for mu, var in (r, g)
    )
    w = (
        Gaussian(torch.zeros(2).double(), torch.zeros(2).double()).log_prob(z).exp()
        if kernel == "prior"
        else 1.0
    )
    integral = (w * (q_r - q_g).square()).sum() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(as_distance(*r, *g, kernel), integral, rtol=1e-9, atol=0)


@equation("eq-estimators")
@pytest.mark.parametrize("kernel", ["mean", "product", "prior"])
def test_estimators_by_counting_pairs(generator, kernel):
    r, g = posteriors(generator, 4, 2), posteriors(generator, 4, 2)
    weight, reduction = {
        "mean": ("lebesgue", "mean"),
        "product": ("lebesgue", "product"),
        "prior": ("prior", "product"),
    }[kernel]

    def k(a, i, b, j):
        return expected_likelihood_kernel(
            a[0][[i]], a[1][[i]], b[0][[j]], b[1][[j]], weight, reduction
        ).item()

    mixed = sum(k(r, i, g, j) for i in range(4) for j in range(4)) / 16
    every = sum(k(a, i, a, j) for a in (r, g) for i in range(4) for j in range(4)) / 16
    distinct = sum(k(a, i, a, j) for a in (r, g) for i in range(4) for j in range(4) if i != j) / 12
    assert math.isclose(
        as_distance(*r, *g, kernel, "v"), every - 2 * mixed, rel_tol=1e-9, abs_tol=1e-12
    )
    assert math.isclose(
        as_distance(*r, *g, kernel, "u"), distinct - 2 * mixed, rel_tol=1e-9, abs_tol=1e-12
    )


@equation("eq-as-annealing")
def test_annealing_weight():
    assert [annealing_weight(i, 100) for i in (0, 10, 20, 90)] == [0.0, 0.5, 1.0, 1.0]
    with pytest.raises(ValueError, match="T=0"):
        annealing_weight(1, 0)


@pytest.fixture
def setting(generator):
    torch.manual_seed(1)
    model = mlp_autoencoder(2, N, (8,)).double()
    x = torch.randn(B, 2, generator=generator).double()
    noise = Noise(*(t.double() for t in Noise.draw(B, N, generator)))
    return model, x, noise


def parts(model, x, noise):
    """R, KL and ELBO ingredients of x, x_r, x_g, example by example, written out from the notation
    page."""

    def one(image, eps):
        mean, logvar = model.encode(image)
        z = mean + (logvar / 2).exp() * eps
        rec = torch.stack([((image[b] - model.decode(z)[b]) ** 2).sum() for b in range(B)])
        kl = torch.stack(
            [0.5 * (mean[b] ** 2 + logvar[b].exp() - 1 - logvar[b]).sum() for b in range(B)]
        )
        return rec, kl, mean, logvar.exp(), model.decode(z)

    rec, kl, mu, var, x_r = one(x, noise.eps)
    x_g = model.decode(noise.z)
    return (rec, kl, mu, var), one(x_r, noise.eps_r)[:4], one(x_g, noise.eps_g)[:4]


@equation("eq-vae-loss")
def test_vae_loss(setting):
    (rec, kl, *_), _, _ = parts(*setting)
    loss, terms = VAE(0.7, 1.3).loss(*setting, 0.0)
    torch.testing.assert_close(loss, (0.7 * rec + 1.3 * kl).mean())
    torch.testing.assert_close(terms["kl"], kl.mean())


@equation("eq-intro-encoder", "eq-intro-decoder")
def test_intro_losses(setting):
    (rec, kl, *_), (_, kl_r, *_), (_, kl_g, *_) = parts(*setting)
    objective = IntroVAE(0.7, 1.3, 0.4, margin=2.0)
    hinge = (2.0 - kl_r).clamp(min=0) + (2.0 - kl_g).clamp(min=0)
    torch.testing.assert_close(
        objective.encoder_loss(*setting, 0.0)[0], (0.7 * rec + 1.3 * kl + 0.4 * hinge).mean()
    )
    torch.testing.assert_close(
        objective.decoder_loss(*setting, 0.0)[0], (0.7 * rec + 0.4 * (kl_r + kl_g)).mean()
    )


def expected_soft(setting, divergence_r, divergence_g, alpha=2.0, gamma_r=0.1):
    (rec, kl, *_), (rec_r, *_), (rec_g, *_) = parts(*setting)
    kappa, b_rec, b_kl, b_neg = 0.5, 0.7, 1.3, 0.4
    fakes = sum(
        (-alpha * kappa * (b_rec * r + b_neg * d)).exp()
        for r, d in ((rec_r, divergence_r), (rec_g, divergence_g))
    )
    encoder = (kappa * (b_rec * rec + b_kl * kl) + fakes / (2 * alpha)).mean()
    fake = 0.5 * b_kl * (divergence_r + divergence_g) + 0.5 * gamma_r * b_rec * (rec_r + rec_g)
    return encoder, kappa * (b_rec * rec + fake).mean()


@equation("eq-soft-losses")
def test_soft_intro_losses(setting):
    _, (_, kl_r, *_), (_, kl_g, *_) = parts(*setting)
    objective = SoftIntroVAE(0.7, 1.3, 0.4, gamma_r=0.1)
    encoder, decoder = expected_soft(setting, kl_r, kl_g)
    torch.testing.assert_close(objective.encoder_loss(*setting, 0.0)[0], encoder)
    torch.testing.assert_close(objective.decoder_loss(*setting, 0.0)[0], decoder)


@equation("eq-as-mixed", "eq-as-encoder", "eq-as-decoder")
@pytest.mark.parametrize("pairing", ["reconstructed", "real"])
@pytest.mark.parametrize(
    ("kernel", "bandwidth"),
    [("mean", 0.0), ("product", 0.0), ("prior", 0.0), ("tempered", 0.0), ("mean", (0.5, 2.0))],
)
def test_as_intro_losses(setting, pairing, kernel, bandwidth):
    real, (_, kl_r, *r), (_, kl_g, *g) = parts(*setting)
    c = annealing_weight(0.1, 1)
    other = r if pairing == "reconstructed" else real[2:]
    distance = 3.0 * as_distance(*other, *g, kernel, bandwidth=bandwidth)
    options = {"kernel": kernel, "bandwidth": bandwidth, "pairing": pairing}
    objective = ASIntroVAE(0.7, 1.3, 0.4, gamma_r=0.1, distance_weight=3.0, **options)
    encoder, decoder = expected_soft(
        setting, c * kl_r + (1 - c) * distance, c * kl_g + (1 - c) * distance
    )
    torch.testing.assert_close(objective.encoder_loss(*setting, 0.1)[0], encoder)
    torch.testing.assert_close(objective.decoder_loss(*setting, 0.1)[0], decoder)


def test_as_intro_at_c_1_is_soft_intro_exactly(setting):
    soft, annealed = SoftIntroVAE(0.7, 1.3, 0.4), ASIntroVAE(0.7, 1.3, 0.4)
    for phase_s, phase_a in zip(soft.phases, annealed.phases, strict=True):
        for progress in (0.2, 0.5, 1.0):
            loss_s, loss_a = (
                phase_s.loss(*setting, progress)[0],
                phase_a.loss(*setting, progress)[0],
            )
            assert torch.equal(loss_s, loss_a)
            model = setting[0]
            grads = [
                torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
                for loss in (loss_s, loss_a)
            ]
            assert all(
                (a is None and b is None) or torch.equal(a, b) for a, b in zip(*grads, strict=True)
            )


@pytest.mark.parametrize("c", [0.0, 0.5])
def test_encoder_raises_the_distance_and_decoder_lowers_it(setting, c):
    """Eq.

    4, max over the encoder and min over the decoder: the sign of dL/dD in Eq. 7, through
    distance_weight.
    """
    weight = torch.tensor(
        1.0, dtype=torch.float64, requires_grad=True
    )  # dL/dweight = dL/d(weighted D) · D, and D > 0
    objective = ASIntroVAE(0.7, 1.3, 0.4, distance_weight=weight, c=c)
    (encoder_slope,) = torch.autograd.grad(objective.encoder_loss(*setting, 0.0)[0], weight)
    (decoder_slope,) = torch.autograd.grad(objective.decoder_loss(*setting, 0.0)[0], weight)
    assert encoder_slope < 0 < decoder_slope


@equation("eq-wgan-critic", "eq-wgan-generator")
def test_wgan_gp_losses(generator):
    torch.manual_seed(2)
    model = mlp_gan(2, N, (8,)).double()
    x = torch.randn(B, 2, generator=generator).double()
    noise = Noise(*(t.double() for t in Noise.draw(B, N, generator)))
    x_g = model.decode(noise.z)
    penalty = 0.0
    for b in range(B):
        x_hat = (noise.mix[b] * x[b] + (1 - noise.mix[b]) * x_g[b]).detach().requires_grad_()
        slope = torch.autograd.grad(model.critic(x_hat[None]).sum(), x_hat)[0].norm()
        penalty += (slope - 1) ** 2 / B
    expected = model.critic(x_g).mean() - model.critic(x).mean() + 10 * penalty
    torch.testing.assert_close(WGANGP().critic_loss(model, x, noise, 0.0)[0], expected)
    torch.testing.assert_close(
        WGANGP().generator_loss(model, x, noise, 0.0)[0], -model.critic(x_g).mean()
    )


@equation("eq-measure-density", "eq-measure-kl", "eq-measure-jsd", "eq-measure-true")
def test_divergences_by_hand():
    """Two cells, P = (1, 0), Q = (1/2, 1/2) as probabilities; the histogram has four cells of area
    1."""
    real = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    fake = torch.tensor([[0.5, 0.5], [1.5, 0.5]])
    scores = histogram_divergences(real, fake, (0.0, 2.0), bins=2)
    assert math.isclose(scores.kl_nats, math.log(2), rel_tol=1e-9)
    assert math.isclose(scores.protocol_kl, math.log(2) / 100, rel_tol=1e-9)
    # M = (3/4, 1/4): the true JSD, and the reversed one, which pays log(1e14) where P is empty.
    true = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert math.isclose(scores.jsd_nats, true, rel_tol=1e-9)
    kl_mp = 0.75 * math.log(0.75) + 0.25 * math.log(0.25 / 1e-14)
    kl_mq = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert math.isclose(scores.protocol_jsd, (kl_mp + kl_mq) / 200, rel_tol=1e-9)


@equation("eq-measure-frechet")
def test_frechet_distance_closed_forms(generator):
    zero, eye = torch.zeros(3).double(), torch.eye(3).double()
    assert abs(frechet_distance(zero, eye, zero, eye)) < 1e-12
    shifted = frechet_distance(zero, eye, torch.tensor([1.0, 2.0, 0.0]).double(), eye)
    assert math.isclose(shifted, 5.0, rel_tol=1e-12)
    scales = torch.tensor([1.0, 4.0, 9.0]).double()  # commuting covariances: Σ (σ_a - σ_b)²
    assert math.isclose(frechet_distance(zero, scales.diag(), zero, eye), 0 + 1 + 4, rel_tol=1e-12)
    a, b = (
        torch.randn(2, 3, 3, generator=generator).double()
        @ torch.randn(3, 3, generator=generator).double()
    )
    cov_a, cov_b = (
        a @ a.T,
        b @ b.T,
    )  # singular values of a^T b: the nuclear norm is tr (C_a^½ C_b C_a^½)^½
    expected = cov_a.trace() + cov_b.trace() - 2 * torch.linalg.svdvals(a.T @ b).sum()
    torch.testing.assert_close(
        frechet_distance(zero, cov_a, zero, cov_b), expected, rtol=1e-8, atol=1e-8
    )


@equation("eq-measure-precision")
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_a_tree(k):
    """Radii from a k-d tree, balls one by one; unequal counts."""
    rng = np.random.default_rng(5)
    real, fake = rng.normal(size=(150, 4)), 0.4 + 1.3 * rng.normal(size=(110, 4))

    def share(points, members):
        radii = spatial.KDTree(members).query(members, k + 1)[0][:, k]
        hits = spatial.KDTree(points).query_ball_point(members, radii)
        return len(set().union(*hits)) / len(points)

    found = precision_recall(torch.from_numpy(real), torch.from_numpy(fake), k)
    assert found == (share(fake, real), share(real, fake))
    assert 0.1 < found.precision < found.recall < 0.98


@equation("eq-measure-kid")
def test_kernel_distance_by_moments():
    """The kernel is Σ_p binom(3, p) (x·y/F)^p, and a mean of (x·y)^p a product of two moments."""
    rng = np.random.default_rng(6)
    real, fake = rng.normal(size=(50, 4)), 0.4 + 1.3 * rng.normal(size=(35, 4))

    def powers(x, p):
        found = np.ones((len(x), 1))
        for _ in range(p):
            found = (found[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        return found

    def own(x):
        return (x.sum(0) @ x.sum(0) - (x**2).sum()) / (len(x) * (len(x) - 1))

    expected = 0.0
    for p in range(4):
        a, b = powers(real, p), powers(fake, p)
        expected += math.comb(3, p) / 4**p * (own(a) + own(b) - 2 * a.mean(0) @ b.mean(0))
    found = kernel_distance(torch.from_numpy(real), torch.from_numpy(fake))
    assert math.isclose(found, expected, rel_tol=1e-10)


@equation("eq-measure-coverage")
@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_by_a_tree(k):
    """Radii and balls from k-d trees; unequal counts."""
    rng = np.random.default_rng(7)
    real, fake = rng.normal(size=(150, 4)), 0.4 + 0.9 * rng.normal(size=(110, 4))
    radii = spatial.KDTree(real).query(real, k + 1)[0][:, k]
    hits = [len(ball) for ball in spatial.KDTree(fake).query_ball_point(real, radii)]
    found = density_coverage(torch.from_numpy(real), torch.from_numpy(fake), k)
    assert math.isclose(found.density, sum(hits) / (k * 110), rel_tol=1e-12)
    assert found.coverage == np.mean([count > 0 for count in hits])
    assert 0.3 < found.coverage < 0.98


@equation("eq-measure-psnr")
def test_psnr_is_the_mean_over_images_of_the_logarithm():
    x = torch.full((4, 1, 28, 28), 0.25)
    shifted = x + torch.tensor([0.1, 0.2, 0.1, 0.2]).reshape(4, 1, 1, 1)
    assert math.isclose(
        psnr(x, shifted), -10 * (math.log10(0.01) + math.log10(0.04)) / 2, rel_tol=1e-5
    )


@equation("eq-measure-ssim")
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
            std_a, std_b = (
                math.sqrt((weight * (t - mu) ** 2).sum()) for t, mu in ((a, mu_a), (b, mu_b))
            )
            cov = (weight * (a - mu_a) * (b - mu_b)).sum()
            luminance = (2 * mu_a * mu_b + 1e-4) / (mu_a**2 + mu_b**2 + 1e-4)
            contrast = (2 * std_a * std_b + 9e-4) / (std_a**2 + std_b**2 + 9e-4)
            total += luminance * contrast * (cov + 4.5e-4) / (std_a * std_b + 4.5e-4)
    torch.testing.assert_close(
        float(ssim(x[None, None], y[None, None])), total / (13 * 12), rtol=1e-6, atol=1e-6
    )


@equation("eq-wrong-units")
def test_active_units_counts_axes_that_carry_information(generator):
    mean = torch.randn(500, 3, generator=generator) * torch.tensor([1.0, 0.01, 0.5])
    assert active_units(Gaussian(mean, torch.zeros_like(mean))) == 2


def batch_norm(h):
    """(B, C, H, W), statistics of the batch, numpy."""
    return (h - h.mean((0, 2, 3), keepdims=True)) / np.sqrt(h.var((0, 2, 3), keepdims=True) + 1e-5)


def convolve(x, weight):
    """Images (B, C, H, W) and filters (C', C, k, k), zero border, by scipy."""
    return np.array(
        [
            [
                sum(signal.correlate2d(c, k, "same") for c, k in zip(i, f, strict=True))
                for f in weight
            ]
            for i in x
        ]
    )


@equation("eq-images-block")
@pytest.mark.parametrize("channels", [2, 3])
def test_residual_block_by_scipy(channels, generator):
    block = ResidualBlock(2, channels).double()
    x = torch.randn(4, 2, 6, 6, generator=generator).double()
    first, second = (block.body[i].weight.detach().numpy() for i in (0, 3))
    h = batch_norm(convolve(x.numpy(), first))
    h = batch_norm(convolve(np.where(h > 0, h, 0.2 * h), second))
    y = h + (
        x.numpy() if channels == 2 else convolve(x.numpy(), block.skip.weight.detach().numpy())
    )
    np.testing.assert_allclose(block(x).detach(), np.where(y > 0, y, 0.2 * y), atol=1e-10)


@equation("eq-images-ema")
def test_average_of_the_decoder_unrolled(tmp_path):
    """ema^T W_0 + (1 - ema) sum over t of ema^(T-t) W_t, of a run of the loop."""
    config = tiny_config(tmp_path, model="soft_intro", warmup=2, ema=0.8)
    data, model, objective = build(config)
    loop = Loop(model, objective, data, config)
    weights = [torch.nn.utils.parameters_to_vector(model.decoder.parameters()).detach()]
    for i in range(5):
        loop.iterate(i)
        weights.append(torch.nn.utils.parameters_to_vector(model.decoder.parameters()).detach())
    expected = 0.8**5 * weights[0] + sum(0.2 * 0.8 ** (5 - t) * weights[t] for t in range(1, 6))
    torch.testing.assert_close(
        torch.nn.utils.parameters_to_vector(loop.averages["decoder"].parameters()), expected
    )
    assert (expected - weights[-1]).abs().max() > 1e-4
    assert list(loop.averages) == ["decoder"]


@equation("eq-results-annealed")
@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_annealed_beta_kl_is_piecewise_linear(share):
    progress = np.linspace(0, 1, 101)
    by_hand = np.interp(progress, [0, share], [0.15, 1.5])
    np.testing.assert_allclose(
        [annealed(1.5, float(p), share) for p in progress], by_hand, rtol=1e-12
    )
    assert {annealed(1.5, float(p), 0.0) for p in progress} == {1.5}


@equation("eq-results-fourier")
def test_fourier_features_by_numpy():
    features, u = FourierFeatures(3, 7), torch.randn(5, 3)
    Omega, omega = (parameter.detach().numpy() for parameter in features.linear.parameters())
    by_hand = np.concatenate(
        [u.numpy(), np.sin(np.einsum("bd,fd->bf", u.numpy(), Omega) + omega)], axis=1
    )
    np.testing.assert_allclose(features(u).detach().numpy(), by_hand, atol=1e-5)


@equation("eq-images-precise")
def test_precise_statistics_are_means_over_batches(generator):
    """First layer and, after BatchNorm with each batch's own statistics, the first of the block; by
    scipy."""
    images = torch.rand(STATISTICS_BATCHES, 4, 1, 8, 8, generator=generator)
    model = conv_autoencoder((1, 8, 8), 3, (2,)).double()
    before = copy.deepcopy(model.encoder.state_dict())
    precise_batchnorm({"encoder": model.encoder}, lambda k: images[k].double(), 3, seed=0)
    first, block = model.encoder[0], model.encoder[4].body
    layers = {model.encoder[1]: [], block[1]: []}
    for batch in images.double().numpy():
        h = convolve(batch, first.weight.detach().numpy())
        layers[model.encoder[1]].append(h)
        h = batch_norm(h)
        pooled = functional.avg_pool2d(torch.from_numpy(np.where(h > 0, h, 0.2 * h)), 2).numpy()
        layers[block[1]].append(convolve(pooled, block[0].weight.detach().numpy()))
    for layer, inputs in layers.items():
        np.testing.assert_allclose(
            layer.running_mean, np.mean([h.mean((0, 2, 3)) for h in inputs], 0), atol=1e-9
        )
        np.testing.assert_allclose(
            layer.running_var, np.mean([h.var((0, 2, 3), ddof=1) for h in inputs], 0), rtol=1e-9
        )
    assert all(torch.equal(p, before[name]) for name, p in model.encoder.named_parameters())


def two_posteriors(generator, B, n=2):
    return [
        Gaussian(*torch.randn(2, B, n, generator=generator, dtype=torch.float64) / 2)
        for _ in range(2)
    ]


def distance(q_r, q_g, kernel="product", estimator="v"):
    return as_distance(q_r.mean, q_r.var, q_g.mean, q_g.var, kernel, estimator)


def of(q, index):
    return Gaussian(*(part[index] for part in q))


def in_threads(monkeypatch, count, function):
    """Run function() once per process of a group that threads play; their results, by rank."""
    own, barrier, sent, results = (
        threading.local(),
        threading.Barrier(count, timeout=60),
        [None] * count,
        [None] * count,
    )

    def all_reduce(tensor):
        sent[own.rank] = tensor.clone()
        barrier.wait()
        total = torch.stack(sent).sum(0)
        barrier.wait()
        tensor.copy_(total)

    def process(rank):
        own.rank = rank
        results[rank] = function()

    monkeypatch.setattr("asintrovae.collectives.dist.all_reduce", all_reduce)
    for module in ("collectives", "theory.batchnorm"):
        monkeypatch.setattr(f"asintrovae.{module}.world", lambda: (own.rank, count))
    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@equation("eq-running-draws")
def test_draws_are_a_function_of_seed_purpose_and_index():
    """The hash from its two 32-bit words; streams do not meet."""
    seen = set()
    for seed, purpose, index in itertools.product((0, 5, 2**62), PURPOSES, (0, 1, 10**9)):
        low, high = (
            np.random.SeedSequence([seed, PURPOSES.index(purpose), index])
            .generate_state(2, np.uint32)
            .tolist()
        )
        expected = torch.Generator().manual_seed((low + (high << 32)) // 2)
        drawn = torch.randn(4, generator=generator_for(seed, purpose, index))
        assert torch.equal(drawn, torch.randn(4, generator=expected))
        seen.add(tuple(drawn.tolist()))
    assert len(seen) == 3 * len(PURPOSES) * 3


@equation("eq-running-shares")
@pytest.mark.parametrize("kernel", ["mean", "product", "prior"])
def test_mean_of_shares_is_the_distance_and_a_spread(generator, kernel):
    """Both sides of the surplus on a grid: for the per-axis kernel the marginals, each weighted
    √(2π) / n."""
    B, n, W = 6, 2, 3
    q_r, q_g = two_posteriors(generator, B)
    axis = torch.linspace(-10, 10, 401, dtype=torch.float64)
    if kernel == "mean":
        clouds = [[Gaussian(*(part[:, [d]] for part in q)) for q in (q_r, q_g)] for d in range(n)]
        z, cell = axis[:, None, None], (axis[1] - axis[0]) * math.sqrt(2 * math.pi) / n
    else:
        clouds, z, cell = (
            [(q_r, q_g)],
            torch.cartesian_prod(axis, axis)[:, None],
            (axis[1] - axis[0]) ** 2,
        )
    weight = (-z.square().sum(2).squeeze(1) / 2).exp() / (2 * math.pi) if kernel == "prior" else 1.0
    spread = 0.0
    for r, g in clouds:
        h_i = r.log_prob(z).exp() - g.log_prob(z).exp()  # (points, B)
        h_w = h_i.unflatten(1, (W, B // W)).mean(2)
        spread += (weight * (h_w - h_w.mean(1, keepdim=True)).square().mean(1)).sum() * cell
    parts = torch.arange(B).chunk(W)
    mean = sum(distance(of(q_r, part), of(q_g, part), kernel) for part in parts) / W
    torch.testing.assert_close(mean, distance(q_r, q_g, kernel) + spread, rtol=1e-7, atol=0)


@equation("eq-running-gradient")
@pytest.mark.parametrize("kernel", ["mean", "product", "prior"])
def test_gradients_of_gathered_shares_average_to_that_of_the_batch(generator, monkeypatch, kernel):
    """Against finite differences of the loss of the whole batch, a mean and a distance, in every
    weight of a linear encoder."""
    B, n = 6, 2
    x, x_g = torch.randn(2, B, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 2 * n, generator=generator, dtype=torch.float64) / 2

    def encode(x, weights):
        return Gaussian(*(x @ weights).chunk(2, dim=1))

    def loss(weights):
        q, q_g = encode(x, weights), encode(x_g, weights)
        return q.kl().mean() - distance(q, q_g, kernel)

    def process():
        theta = weights.clone().requires_grad_()
        q, q_g = encode(share(x), theta), encode(share(x_g), theta)
        (q.kl().mean() - distance(Gaussian(*gather(q)), Gaussian(*gather(q_g)), kernel)).backward()
        average_([theta.grad])
        return theta.grad

    step = 1e-6 * torch.eye(weights.numel(), dtype=torch.float64).reshape(-1, *weights.shape)
    expected = torch.stack([(loss(weights + h) - loss(weights - h)) / 2e-6 for h in step]).reshape(
        weights.shape
    )
    for found in in_threads(monkeypatch, 3, process):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@equation("eq-running-batchnorm")
def test_batchnorm_of_shares_is_that_of_the_batch(generator, monkeypatch):
    """By NumPy on the whole batch: what leaves the layer, and its running statistics."""
    x = (
        torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)
        * torch.arange(1, 9)[:, None, None, None]
        + 2
    )

    def process():
        layer = BatchNorm2d(3).double()
        return layer(share(x)).detach(), layer.running_mean.clone(), layer.running_var.clone()

    found = in_threads(monkeypatch, 4, process)
    images = x.numpy()
    mean, var = images.mean((0, 2, 3)), images.var((0, 2, 3))
    expected = (images - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    np.testing.assert_allclose(torch.cat([out for out, *_ in found]), expected, rtol=1e-9)
    for _, running_mean, running_var in found:
        np.testing.assert_allclose(running_mean, 0.1 * mean, rtol=1e-9)
        np.testing.assert_allclose(
            running_var, 0.9 + 0.1 * images.var((0, 2, 3), ddof=1), rtol=1e-9
        )
