import math

import pytest
import torch

from asintrovae.data import DENSITIES, ToyData, toy_density

WITH_DENSITY = ["8gaussians", "25gaussians", "checkerboard", "rings"]


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_lie_in_the_extent_and_repeat_with_the_seed(name):
    density = toy_density(name)
    draws = [density.sample(4000, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    low, high = density.extent
    assert draws[0].shape == (4000, 2)
    assert ((draws[0] > low) & (draws[0] < high)).all(1).float().mean() > 0.995


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_density_integrates_to_one_and_is_the_one_sampled(name, generator):
    density = toy_density(name)
    low, high = density.extent
    cells = 1000
    axis = low + (torch.arange(cells, dtype=torch.float64) + 0.5) * (high - low) / cells
    grid = torch.cartesian_prod(axis, axis)
    mass = (
        torch.cat([density.log_density(part).exp() for part in grid.split(500_000)])
        * ((high - low) / cells) ** 2
    )
    assert math.isclose(mass.sum(), 1, abs_tol=3e-3)
    # The share of draws in each of 8 x 8 windows against the integral of the density there.
    expected = mass.reshape(8, cells // 8, 8, cells // 8).sum((1, 3))
    points = density.sample(100_000, generator).double()
    share = torch.histogramdd(points, [8, 8], range=[low, high, low, high]).hist / len(points)
    torch.testing.assert_close(share, expected, atol=5 * math.sqrt(0.25 / len(points)), rtol=0)


def test_spirals_have_no_closed_form_density():
    assert toy_density("2spirals").log_density(torch.zeros(1, 2)) is None


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="dataset='9gaussians' is not one of 8gaussians"):
        toy_density("9gaussians")


def test_batch_depends_on_seed_and_index_alone():
    data = [ToyData(toy_density("rings"), 16, seed, torch.device("cpu")) for seed in (0, 0, 1)]
    data[0].batch(0)
    assert torch.equal(data[0].batch(7), data[1].batch(7))
    assert not torch.equal(data[1].batch(7), data[1].batch(8))
    assert not torch.equal(data[1].batch(7), data[2].batch(7))
    assert not torch.equal(data[1].batch(0), data[1].evaluation(16))
