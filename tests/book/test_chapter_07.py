"""Numbers of the chapter on WGAN-GP, by means that share nothing with it."""

import pytest
import torch
from scipy import optimize
from torch import nn

from asintrovae import WGANGP, RunConfig
from asintrovae.running.loop import build_optimizers
from asintrovae.theory.networks import GAN, mlp_gan
from asintrovae.theory.objectives import Noise


def noise_for(batch, generator):
    return Noise(*(t.double() for t in Noise.draw(batch, 2, generator)))


@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0])
def test_slope_that_the_penalty_leaves(generator, weight):
    """Clouds a shift of length W apart, linear critic: the numerical minimum over w is at slope 1 +
    W / (2 λ_gp).

    There the negative loss is W + W² / (4 λ_gp): half of what the penalty adds to the gain.
    """
    noise = noise_for(16, generator)
    shift = torch.tensor([0.9, -1.2]).double()  # of length 1.5
    layer = nn.Linear(2, 1, bias=False).double()
    model = GAN(nn.Sequential(layer, nn.Flatten(0)), nn.Identity(), 2)

    def loss(w):
        layer.weight.data[:] = torch.from_numpy(w)
        return WGANGP(weight).critic_loss(model, noise.z + shift, noise, 0.0)[0].item()

    best = optimize.minimize(
        loss, [1.0, 0.5], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}
    )
    expected = (1 + 1.5 / (2 * weight)) * shift / 1.5
    torch.testing.assert_close(torch.from_numpy(best.x), expected, rtol=1e-4, atol=1e-4)
    assert -best.fun == pytest.approx(1.5 + 1.5**2 / (4 * weight))


def test_penalty_takes_the_norm_over_all_axes_of_one_image(generator):
    """A critic on images (B, 1, 4, 4) with w of norm 3 has the penalty (3 - 1)², whatever the
    clouds."""
    direction = torch.randn(16, generator=generator).double()
    layer = nn.Linear(16, 1, bias=False).double()
    layer.weight.data[:] = 3 * direction / direction.norm()
    critic = nn.Sequential(nn.Flatten(), layer, nn.Flatten(0))
    generator_net = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4))).double()
    x = torch.rand(5, 1, 4, 4, generator=generator).double()
    _, terms = WGANGP().critic_loss(GAN(critic, generator_net, 2), x, noise_for(5, generator), 0.0)
    torch.testing.assert_close(terms["penalty"], torch.tensor(4.0).double())


def test_adam_betas_have_to_be_given():
    """All models share Adam's own defaults; the pair of the WGAN-GP paper reaches both players when
    it is given."""
    assert RunConfig(model="wgan_gp").adam_betas == (0.9, 0.999)
    config = RunConfig(model="wgan_gp", adam_betas=(0, 0.9))
    optimizers = build_optimizers(mlp_gan(2, 2, (4,)), config)
    assert {name: o.param_groups[0]["betas"] for name, o in optimizers.items()} == {
        "critic": (0, 0.9),
        "generator": (0, 0.9),
    }
