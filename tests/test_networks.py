import pytest
import torch

from asintrovae.networks import LOGVAR_RANGE, conv_autoencoder, mlp_autoencoder, mlp_gan


@pytest.mark.parametrize(
    ("shape", "n", "widths"),
    [((1, 28, 28), 32, (64, 128)), ((1, 28, 28), 16, (16, 32)), ((3, 32, 32), 128, (64, 128, 256))],
)
def test_conv_autoencoder_shapes(shape, n, widths):
    model = conv_autoencoder(shape, n, widths)
    q = model.encode(torch.rand(2, *shape))
    assert q.mean.shape == q.logvar.shape == (2, n)
    assert model.decode(q.mean).shape == (2, *shape)


def test_mlp_shapes_and_sizes():
    model = mlp_autoencoder(2, 2, (256, 256, 256))
    assert model.decode(model.encode(torch.zeros(5, 2)).mean).shape == (5, 2)
    hidden = 2 * (256 * 256 + 256)
    assert sum(p.numel() for p in model.encoder.parameters()) == (2 * 256 + 256) + hidden + (256 * 4 + 4)
    gan = mlp_gan(2, 3, (8, 16))
    assert gan.critic(torch.zeros(5, 2)).shape == (5,)
    assert gan.decode(torch.zeros(5, 3)).shape == (5, 2)


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
    with pytest.raises(ValueError, match=r"widths=\(8, 8, 8\) halves the image 3 times, which 28x28 does not allow"):
        conv_autoencoder((1, 28, 28), 4, (8, 8, 8))
