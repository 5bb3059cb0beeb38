import math

import pytest
import torch

from asintrovae.theory.batchnorm import precise_batchnorm
from asintrovae.theory.networks import (
    FOURIER_SCALE,
    LOGVAR_RANGE,
    PUBLISHED_WIDTHS,
    conv_autoencoder,
    conv_gan,
    mlp_autoencoder,
    mlp_gan,
)


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("shape", "n", "encoder", "decoder", "critic"),
    [
        ((1, 28, 28), 32, 928_512, 697_025, 532_737),
        ((3, 32, 32), 128, 3_382_848, 2_382_531, 2_336_769),
        ((3, 128, 128), 256, 18_461_504, 14_121_667, 14_270_977),
        ((3, 256, 256), 256, 23_182_144, 18_842_307, 18_990_593),
    ],
)
@torch.no_grad()
def test_published_networks_have_these_shapes_and_sizes(shape, n, encoder, decoder, critic):
    widths = PUBLISHED_WIDTHS[shape[1]]
    model, gan = conv_autoencoder(shape, n, widths).eval(), conv_gan(shape, n, widths).eval()
    assert (size(model.encoder), size(model.decoder), size(gan.critic)) == (
        encoder,
        decoder,
        critic,
    )
    assert str(gan.generator) == str(model.decoder)
    x = torch.rand(1, *shape)
    q = model.encode(x)
    assert q.mean.shape == q.logvar.shape == (1, n)
    assert model.decode(q.mean).shape == x.shape
    assert gan.critic(x).shape == (1,)


def test_size_of_the_smallest_conv_encoder_by_hand():
    """One halving, so one residual block of two 3x3 convolutions, each behind it 2 x 4 numbers of
    BatchNorm."""
    first, block, head = 25 * 3 * 4 + 8, 2 * (9 * 4 * 4 + 8), 2 * 2 * 2 * 4 * 5 + 2 * 5
    assert size(conv_autoencoder((3, 4, 4), 5, (4,)).encoder) == first + block + head


def test_the_critic_scores_each_image_by_itself():
    """In training too: the gradient penalty is a slope per example, so no BatchNorm."""
    critic = conv_gan((1, 8, 8), 2, (4, 8)).train().critic
    x = torch.rand(5, 1, 8, 8)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in critic.modules())
    torch.testing.assert_close(critic(x), torch.cat([critic(image[None]) for image in x]))


def test_precise_statistics_of_one_layer_are_those_of_what_evaluation_asks_for():
    """First layers: the encoder's sees real images; the generator's, after a linear layer, prior
    samples."""
    images = torch.rand(10, 64, 1, 8, 8)
    model, gan = conv_autoencoder((1, 8, 8), 3, (4,)), conv_gan((1, 8, 8), 3, (4,))
    precise_batchnorm(
        {"encoder": model.encoder, "decoder": model.decoder}, images.__getitem__, 3, seed=0
    )
    seen = model.encoder[0](images.flatten(0, 1))
    torch.testing.assert_close(model.encoder[1].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(model.encoder[1].running_var, seen.var((0, 2, 3)), rtol=0.02, atol=0)

    q = model.encoder.eval()(images.flatten(0, 1))
    posterior, prior = q.sample(torch.randn_like(q.mean)), torch.randn_like(q.mean)
    precise_batchnorm({"generator": gan.generator}, images.__getitem__, 3, seed=0)
    for half, z in ((model.decoder, torch.cat([posterior, prior])), (gan.generator, prior)):
        seen = half[3].body[0](half[:3](z))
        torch.testing.assert_close(
            half[3].body[1].running_mean, seen.mean((0, 2, 3)), rtol=0.1, atol=0.01
        )
        torch.testing.assert_close(
            half[3].body[1].running_var, seen.var((0, 2, 3)), rtol=0.15, atol=0
        )


def test_precise_statistics_do_not_depend_on_what_passed_before():
    images = torch.rand(10, 8, 1, 8, 8)
    model = conv_autoencoder((1, 8, 8), 3, (4,))
    halves = dict(model.named_children())

    def evaluated():
        precise_batchnorm(halves, images.__getitem__, 3, seed=0)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    before = evaluated()
    model.encode(model.decode(100 * torch.randn(8, 3)))  # a fake batch far out, in training mode
    assert not torch.equal(before["encoder.1.running_mean"], model.encoder[1].running_mean)
    assert all(torch.equal(tensor, before[name]) for name, tensor in evaluated().items())
    assert all(
        module.training and module.momentum == 0.1
        for module in model.modules()
        if hasattr(module, "momentum")
    )


def test_mlp_shapes_and_sizes():
    """S-IntroVAE's 2-D networks; its decoder has 198,659 parameters, one of which nothing uses."""
    model = mlp_autoencoder(2, 2, (256, 256, 256, 256))
    assert model.decode(model.encode(torch.zeros(5, 2)).mean).shape == (5, 2)
    hidden = 3 * (256 * 256 + 256)
    assert size(model.encoder) == (2 * 256 + 256) + hidden + (256 * 4 + 4) == 199_172
    assert size(model.decoder) == (2 * 256 + 256) + hidden + (256 * 2 + 2) == 198_659 - 1
    gan = mlp_gan(2, 3, (8, 16))
    assert gan.critic(torch.zeros(5, 2)).shape == (5,)
    assert gan.decode(torch.zeros(5, 3)).shape == (5, 2)


def test_a_decoder_that_draws_takes_its_noise_from_axes_the_encoder_leaves_at_the_prior():
    model, x, z = (
        mlp_autoencoder(2, 5, (8,), decoder_std=0.25),
        torch.randn(6, 2),
        torch.randn(6, 5),
    )
    still = torch.cat([z[:, :3], torch.zeros(6, 2)], 1)
    torch.testing.assert_close(model.decode(z) - model.decode(still), 0.25 * z[:, 3:])
    q = model.encode(x)
    assert q.mean.shape == q.logvar.shape == (6, 5)
    torch.testing.assert_close(q.sample(z)[:, 3:], z[:, 3:])
    plain = model.encoder[:-1](x)
    assert plain.mean.shape == (6, 3)
    torch.testing.assert_close(q.kl(), plain.kl())


def test_fourier_features_are_sinusoids_beside_the_input_and_learn():
    model, gan, x = (
        mlp_autoencoder(2, 3, (8,), fourier_features=5),
        mlp_gan(2, 3, (8,), fourier_features=5),
        torch.randn(6, 2),
    )
    features = model.encoder[0][0][0]
    W, b = features.linear.weight, features.linear.bias
    torch.testing.assert_close(features(x), torch.cat([x, torch.sin(x @ W.T + b)], 1))
    for half, d, last in (
        (model.encoder, 2, 6),
        (model.decoder, 3, 2),
        (gan.critic, 2, 1),
        (gan.generator, 3, 2),
    ):
        assert size(half) == (d * 5 + 5) + ((d + 5) * 8 + 8) + (8 * last + last)
    model.decode(model.encode(x).mean).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in features.parameters())
    many = mlp_autoencoder(2, 2, (8,), fourier_features=20_000).encoder[0][0][0].linear
    assert many.weight.std().item() == pytest.approx(FOURIER_SCALE, rel=0.05)
    assert (many.bias.min().item(), many.bias.max().item()) == pytest.approx(
        (-math.pi, math.pi), abs=0.01
    )


def test_log_variance_is_clamped_and_touches_nothing_else():
    model = mlp_autoencoder(2, 2, (8,))
    head = model.encoder[-1].linear
    inside = model.encode(torch.ones(3, 2))
    raw = head(model.encoder[0](torch.ones(3, 2)))
    assert torch.equal(torch.cat(inside, 1), raw)
    torch.nn.init.constant_(head.bias, 1e6)
    outside = model.encode(torch.ones(3, 2))
    assert bool((outside.logvar == LOGVAR_RANGE[1]).all())
    assert bool((outside.mean > 1e5).all())
    assert bool(outside.kl().isfinite().all())


def test_a_resolution_that_cannot_be_halved_is_refused():
    with pytest.raises(
        ValueError, match=r"widths=\(8, 8, 8\) halves the image 3 times, which 28x28 does not allow"
    ):
        conv_autoencoder((1, 28, 28), 4, (8, 8, 8))
