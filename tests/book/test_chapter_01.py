"""Numbers of the chapter on VAEs that no other test holds: the linear optimum, the threshold, the
gradients, setting C1."""

import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy import integrate, optimize, special

from asintrovae import RunConfig, build_data, build_model, build_objective, evaluate, train
from asintrovae.data import toy_density


@pytest.mark.parametrize(("data_var", "beta_kl"), [(1.0, 0.5), (1.0, 0.3), (1.0, 0.1), (4.0, 0.3)])
def test_linear_vae_optimum(data_var, beta_kl):
    """Nelder-Mead on E[β_rec R + β_kl KL] of Dec(z) = wz, μ(x) = vx: KL = ½ log(λ/σ²) above the
    noise, else 0."""
    beta_rec = 0.2

    def kl(p):
        return 0.5 * (p[1] ** 2 * data_var + math.exp(p[2]) - 1 - p[2])

    def loss(p):
        return beta_rec * (
            data_var * (1 - p[0] * p[1]) ** 2 + p[0] ** 2 * math.exp(p[2])
        ) + beta_kl * kl(p)

    best = optimize.minimize(
        loss, [0.3, 0.3, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}
    )
    expected = 0.5 * math.log(max(2 * beta_rec * data_var / beta_kl, 1.0))
    assert math.isclose(kl(best.x), expected, abs_tol=1e-5)


def test_eight_gaussians_have_tails_below_gaussian():
    """Σ_k exp(s·c_k)/8 = I_0(a) + 2 Σ_j I_8j(a) cos 8jθ, a = √2|s|, is largest at θ = 0 and below
    exp(|s|²/2)."""
    length = torch.linspace(0, 20, 2001).double().numpy()
    a = math.sqrt(2) * length
    scaled = special.ive(0, a) + 2 * sum(special.ive(8 * j, a) for j in range(1, 12))
    assert (scaled * torch.exp(torch.tensor(a - length**2 / 2)).numpy() <= 1 + 1e-12).all()
    covariance = torch.cov(toy_density("8gaussians").centers.T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(2), rtol=0, atol=1e-6)


def test_variance_of_the_score_function_gradient():
    """Gauss-Hermite quadrature of f(z) = z² at μ = 1, λ = ¼: 1 reparameterised, 21.75 by the score,
    both of mean 2."""
    eps, weights = hermegauss(20)
    weights = weights / weights.sum()
    z = 1 + 0.5 * eps
    for estimate, variance in ((2 * z, 1.0), (z**2 * eps / 0.5, 21.75)):
        assert math.isclose((weights * estimate).sum(), 2)
        assert math.isclose((weights * estimate**2).sum() - 4, variance)


@pytest.mark.parametrize(("beta_kl", "radius"), [(0.3, 0.915), (0.1, 1.315)])
def test_best_circle_of_samples(beta_kl, radius):
    """Maximise the log-evidence of a point at radius √2 under a circle of samples, the angle by
    quadrature."""
    noise = beta_kl / 0.4

    def loss(rho):
        squared = lambda t: 2 + rho**2 - 2 * math.sqrt(2) * rho * math.cos(t)  # noqa: E731
        return -math.log(
            integrate.quad(lambda t: math.exp(-squared(t) / (2 * noise)), 0, math.pi)[0]
        )

    assert math.isclose(
        optimize.minimize_scalar(loss, bounds=(0.2, 2), method="bounded").x, radius, abs_tol=1e-3
    )


def test_c1_reaches_the_ceiling_of_the_score_without_collapsing(tmp_path):
    metrics = {}
    for name, beta_kl in (("C1", 0.3), ("above the threshold", 0.5)):
        config = RunConfig(
            model="vae",
            beta_kl=beta_kl,
            widths=(64, 64),
            iterations=800,
            learning_rate=3e-3,
            device="cpu",
            run_dir=str(tmp_path / name),
        )
        data = build_data(config)
        model = build_model(config, data.shape)
        train(model, build_objective(config), data, config)
        metrics[name] = evaluate(model, data, config)
    assert [m["active_units"] for m in metrics.values()] == [2, 0]
    assert 0.2 < metrics["C1"]["kl"] < 0.6  # 2 axes; the best linear VAE has 0.288
    assert all(m["protocol_kl"] > 190 and m["modes_found"] == 0 for m in metrics.values())
