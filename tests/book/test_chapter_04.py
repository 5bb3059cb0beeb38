"""Claims of the chapter on failures, by means that share nothing with it: quadrature, scipy, finite
differences."""

import math

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy import integrate, optimize, stats

from asintrovae import Gaussian, SoftIntroVAE, as_distance, load_run
from asintrovae.evaluation.measures import active_units
from asintrovae.randomness import generator_for
from asintrovae.theory.networks import mlp_autoencoder
from asintrovae.theory.objectives import Noise, reconstruction_error


@pytest.fixture(scope="module")
def information():
    """The function of the chapter, taken from its cell."""
    cells = nbformat.read(ROOT / "book" / "04_what_goes_wrong.ipynb", as_version=4).cells
    (source,) = [
        c.source for c in cells if c.cell_type == "code" and c.source.startswith("def information(")
    ]
    namespace = {"math": math, "torch": torch}
    exec(source, namespace)
    return namespace["information"]


def double_noise(count, n=2):
    return Noise(*(t.double() for t in Noise.draw(count, n, generator_for(0, "noise"))))


@pytest.mark.parametrize(("v", "lam"), [(0.0, 1.0), (0.5, 0.1), (1.5, 0.4), (2.0, 2.0)])
def test_information_of_a_linear_gaussian_encoder(information, generator, v, lam):
    """x ~ N(0, 1), q = N(vx, λ): I = log(1 + v²/λ)/2, Q = N(0, v² + λ)."""
    x, noise = torch.randn(2, 3000, 1, generator=generator).double()
    info, mismatch = information(Gaussian(v * x, torch.full_like(x, math.log(lam))), noise)
    spread = v**2 + lam
    assert abs(info - math.log(1 + v**2 / lam) / 2) < 0.06
    assert abs(mismatch - (spread - 1 - math.log(spread)) / 2) < 0.1


def test_information_of_three_images_by_quadrature(information, generator):
    """The definition, integrated, against 2,000 draws per image."""
    means, deviation = np.array([-1.0, 0.2, 1.5]), 0.6
    q = [stats.norm(mean, deviation) for mean in means]

    def integrand(z, i):
        return q[i].pdf(z) * (q[i].logpdf(z) - math.log(np.mean([other.pdf(z) for other in q])))

    exact = np.mean([integrate.quad(integrand, -8, 8, args=(i,))[0] for i in range(3)])
    assert 0 < exact < math.log(3)
    posteriors = Gaussian(
        torch.tensor(means)[:, None], torch.full((3, 1), 2 * math.log(deviation)).double()
    )
    noise = torch.randn(2000, 3, 1, generator=generator).double()
    mean = np.mean([information(posteriors, eps)[0] for eps in noise])
    assert abs(mean - exact) < 0.04


def test_information_never_passes_log_n(information, generator):
    for scale in (0.1, 1.0, 10.0, 1000.0):
        mean, noise = torch.randn(2, 20, 3, generator=generator).double()
        info, _ = information(Gaussian(scale * mean, torch.full_like(mean, -3.0)), noise)
        assert info <= math.log(20) + 1e-12
    assert math.isclose(info, math.log(20), rel_tol=1e-9)


def test_active_units_miss_and_overcount(information, generator):
    """A mean that moves by 0.05 under variance 1e-4 says 1.6 nats and is not counted; 0.2 under 1
    says 0.02 and is."""
    x, noise = torch.randn(2, 3000, 1, generator=generator).double()
    sharp, vague = (
        Gaussian(0.05 * x, torch.full_like(x, math.log(1e-4))),
        Gaussian(0.2 * x, torch.zeros_like(x)),
    )
    assert (active_units(sharp), active_units(vague)) == (0, 1)
    assert information(sharp, noise)[0] > 1.5
    assert information(vague, noise)[0] < 0.08


def test_the_push_is_the_weight_times_the_slope():
    """Finite differences of the package's charge in one bias, against weights times finite
    differences of R and KL."""
    torch.manual_seed(0)
    model, noise, alpha, kappa = mlp_autoencoder(2, 2, (8,)).double(), double_noise(16), 2.0, 0.5
    x, betas = torch.randn(16, 2, generator=generator_for(0, "data")).double(), (0.2, 0.3, 0.9)
    with torch.no_grad():
        fakes = model.decode(model.encode(x).sample(noise.eps)), model.decode(noise.z)
    bias = model.encoder[1].linear.bias

    def parts():
        found = []
        for x_s, eps in zip(fakes, (noise.eps_r, noise.eps_g), strict=True):
            q = model.encode(x_s)
            found += [reconstruction_error(x_s, model.decode(q.sample(eps))), q.kl()]
        return torch.stack(found)

    def charge():
        """Of fakes that are held; the part of real images is left out."""
        rec_r, kl_r, rec_g, kl_g = parts()
        exponents = (0.2 * rec_r + 0.9 * kl_r, 0.2 * rec_g + 0.9 * kl_g)
        return sum(torch.exp(-alpha * kappa * e) for e in exponents).mean() / (2 * alpha)

    def slope(function, step=1e-6):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias[1] += sign * step
                values.append(function())
                bias[1] -= sign * step
        return (values[0] - values[1]) / (2 * step)

    rec_r, kl_r, rec_g, kl_g = parts().detach()
    w_r, w_g = (
        (-alpha * kappa * (0.2 * rec + 0.9 * kl)).exp()
        for rec, kl in ((rec_r, kl_r), (rec_g, kl_g))
    )
    d_rec_r, d_kl_r, d_rec_g, d_kl_g = slope(parts)
    expected = (
        -kappa
        / 2
        * (w_r * (0.2 * d_rec_r + 0.9 * d_kl_r) + w_g * (0.2 * d_rec_g + 0.9 * d_kl_g)).mean()
    )
    torch.testing.assert_close(slope(charge), expected, rtol=1e-6, atol=1e-10)

    loss, terms = SoftIntroVAE(*betas, alpha).encoder_loss(model, x, noise, 0.0)
    (push,) = torch.autograd.grad(loss - kappa * (0.2 * terms["rec"] + 0.3 * terms["kl"]), bias)
    torch.testing.assert_close(push[1], expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(terms["exp_elbo_g"], w_g.mean())


@pytest.mark.parametrize("a", [0.1, 1.0, 16.0])
def test_the_window_has_two_ends(a):
    """|d/dδ exp(-a δ²/2)| / a has its only maximum at KL = δ²/2 = 1/(2a) and tends to zero on both
    sides."""

    def push(kl, h=1e-6):
        delta = math.sqrt(2 * kl)
        return -(math.exp(-a * (delta + h) ** 2 / 2) - math.exp(-a * (delta - h) ** 2 / 2)) / (
            2 * h * a
        )

    found = optimize.minimize_scalar(lambda kl: -push(kl), bounds=(1e-6, 10 / a), method="bounded")
    assert math.isclose(found.x, 1 / (2 * a), rel_tol=1e-3)
    assert push(1e-6 / a) < 0.01 * push(found.x)
    assert push(10 / a) < 0.01 * push(found.x)


class SameForAll:
    """Every image has the posterior N(0, λ I), one for all, and is decoded to the origin."""

    def __init__(self, log_lam):
        self.log_lam = log_lam

    def encode(self, x):
        return Gaussian(torch.zeros_like(x), torch.full_like(x, self.log_lam))

    def decode(self, z):
        return torch.zeros_like(z)


@pytest.mark.parametrize(
    ("betas", "alpha"), [((0.2, 0.3, 0.9), 2.0), ((0.2, 0.2, 1.0), 2.0), ((0.2, 0.2, 1.0), 0.5)]
)
def test_one_posterior_for_all_settles_at_the_balance(betas, alpha):
    """Least encoder loss of the package over narrow posteriors; the chapter moves the mean."""
    x, noise = torch.randn(8, 2, generator=generator_for(0, "data")).double(), double_noise(8)

    def loss(log_lam):
        return (
            SoftIntroVAE(*betas, alpha).encoder_loss(SameForAll(log_lam), x, noise, 0.0)[0].item()
        )

    found = optimize.minimize_scalar(
        loss, bounds=(-12, 0), method="bounded", options={"xatol": 1e-9}
    )
    _, terms = SoftIntroVAE(*betas, alpha).encoder_loss(SameForAll(found.x), x, noise, 0.0)
    _, beta_kl, beta_neg = betas
    assert math.isclose(
        terms["kl"], math.log(beta_neg / beta_kl) / (alpha * 0.5 * beta_neg), rel_tol=1e-4
    )
    assert math.isclose(terms["exp_elbo_g"], beta_kl / beta_neg, rel_tol=1e-4)


def test_one_posterior_for_all_stays_at_the_prior_where_real_images_weigh_more():
    x, noise = torch.randn(8, 2, generator=generator_for(0, "data")).double(), double_noise(8)
    objective = SoftIntroVAE(0.2, 3.0, 1.0)
    losses = [
        objective.encoder_loss(SameForAll(s), x, noise, 0.0)[0].item()
        for s in np.linspace(-6, 0, 61)
    ]
    assert np.argmin(losses) == 60


def test_a_decoder_that_gets_detached_fakes_is_that_of_a_vae():
    """The gallery's "fakes detached": what is left of the package's decoder gradient is the
    reconstruction."""
    torch.manual_seed(0)
    model, noise = mlp_autoencoder(2, 2, (8,)).double(), double_noise(16)
    x = torch.randn(16, 2, generator=generator_for(0, "data")).double()

    class Deaf:
        decode = staticmethod(model.decode)

        def encode(self, images):
            return model.encode(images.detach())

    loss, _ = SoftIntroVAE(0.2, 0.2, 1.0).decoder_loss(Deaf(), x, noise, 0.0)
    rec = (
        0.5
        * 0.2
        * reconstruction_error(x, model.decode(model.encode(x).sample(noise.eps).detach())).mean()
    )
    weights = list(model.decoder.parameters())
    for a, b in zip(
        torch.autograd.grad(loss, weights), torch.autograd.grad(rec, weights), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recorded_runs_show_neither_failure(seed):
    run = load_run(ROOT / "data" / "runs" / "soft_intro_c1" / str(seed))
    rows = [row for row in run.history if "encoder.exp_elbo_g" in row]
    assert len(rows) == 75
    assert min(row["encoder.exp_elbo_g"] for row in rows) >= 0.1
    assert max(row["encoder.exp_elbo_g"] for row in rows) <= 0.3
    assert min(row["encoder.kl"] for row in rows) > 1
    assert 0.2 < np.mean([row["encoder.exp_elbo_g"] for row in rows]) < 0.23
    assert rows[-1]["encoder.rec"] < 0.6
    assert run.record["metrics"]["active_units"] == 2
    assert run.record["metrics"]["modes_found"] == 8


@pytest.mark.parametrize("kernel", ["mean", "product", "prior"])
def test_the_distance_has_no_slope_where_all_posteriors_are_equal(kernel):
    mean, var = (
        torch.zeros(5, 2, dtype=torch.float64, requires_grad=True),
        torch.ones(5, 2, dtype=torch.float64),
    )
    other = torch.zeros(5, 2, dtype=torch.float64)
    distance = as_distance(mean, var, other, var, kernel, "v")
    (slope,) = torch.autograd.grad(distance, mean)
    assert abs(distance.item()) < 1e-12
    assert slope.abs().max() < 1e-12


def test_the_distance_saturates():
    """One axis, variance 1: bounded by √2, while the KL divergence grows with δ²."""
    zero, one = torch.zeros(4, 1, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)
    far = [as_distance(zero, one, zero + delta, one, "mean", "v").item() for delta in (8.0, 16.0)]
    assert all(math.isclose(value, math.sqrt(2), rel_tol=1e-6) for value in far)
