"""Claims of the chapter on the AS-Distance that no other test holds."""

import math

import torch
from scipy import integrate, stats

from asintrovae import as_distance


def test_distance_and_wasserstein_disagree_about_the_larger_change(generator):
    """Twenty posteriors: all moved by 1, or one of them by 10.

    W₂² from sorted draws, the energy distance from scipy.
    """
    mu = torch.linspace(-0.2, 0.2, 20).double()
    var = torch.full_like(mu, 0.05)
    far = mu.clone()
    far[0] += 10
    draws = {}
    for name, means in (("stay", mu), ("all", mu + 1), ("one", far)):
        index = torch.arange(200_000) % 20
        draws[name] = (
            (means[index] + var[index].sqrt() * torch.randn(200_000, generator=generator).double())
            .sort()
            .values
        )
    w = {name: ((draws["stay"] - draws[name]) ** 2).mean().item() for name in ("all", "one")}
    d = {
        name: as_distance(mu[:, None], var[:, None], m[:, None], var[:, None]).item()
        for name, m in (("all", mu + 1), ("one", far))
    }
    energy = {
        name: stats.energy_distance(draws["stay"], draws[name]) ** 2 for name in ("all", "one")
    }
    assert math.isclose(w["all"], 1, rel_tol=0.02)
    assert math.isclose(w["one"], 4.31, rel_tol=0.02)
    assert d["all"] > 100 * d["one"]
    assert math.isclose(energy["all"], 1.43, rel_tol=0.02)
    assert math.isclose(energy["one"], 0.05, rel_tol=0.05)


def test_distance_in_frequencies(generator):
    """Parseval: D = 1/(2π) ∫ |φ_r - φ_g|² dω on one axis, by quadrature."""
    mu_r, mu_g = torch.randn(2, 5, 1, generator=generator).double()
    var_r, var_g = torch.rand(2, 5, 1, generator=generator).double() + 0.1

    def gap(omega):
        phi_r, phi_g = (
            torch.exp(1j * mu * omega - var * omega**2 / 2).mean()
            for mu, var in ((mu_r, var_r), (mu_g, var_g))
        )
        return abs(phi_r - phi_g).item() ** 2

    integral = integrate.quad(gap, -30, 30, limit=500)[0] / (2 * math.pi)
    assert math.isclose(as_distance(mu_r, var_r, mu_g, var_g, "product"), integral, rel_tol=1e-6)
