"""Encoders and decoders: the MLP of the 2-D protocol and the residual convolutions of the image protocol."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from asintrovae.gaussian import Gaussian

LOGVAR_RANGE = (-20.0, 20.0)
"""Every encoder keeps its log-variance in this range: exp of it, and its sums, stay finite in float32."""


class GaussianHead(nn.Module):
    """Linear map from features (B, F) to a posterior over n axes, log-variance clamped to LOGVAR_RANGE."""

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)

    def forward(self, features: Tensor) -> Gaussian:
        mean, logvar = self.linear(features).chunk(2, dim=-1)
        return Gaussian(mean, logvar.clamp(*LOGVAR_RANGE))


class Autoencoder(nn.Module):
    """The two halves of an (introspective) VAE.

    encoder: module (B, ...) -> Gaussian of (B, n). decoder: module (B, n) -> (B, ...). latent_dim: n.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latent_dim = encoder, decoder, latent_dim

    def encode(self, x: Tensor) -> Gaussian:
        """Posterior q(z|x) of x (B, ...)."""
        posterior: Gaussian = self.encoder(x)
        return posterior

    def decode(self, z: Tensor) -> Tensor:
        """Image Dec(z) of z (B, n)."""
        image: Tensor = self.decoder(z)
        return image


class GAN(nn.Module):
    """The two halves of WGAN-GP. critic: module (B, ...) -> (B,). generator: module (B, n) -> (B, ...)."""

    def __init__(self, critic: nn.Module, generator: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.critic, self.generator, self.latent_dim = critic, generator, latent_dim

    def decode(self, z: Tensor) -> Tensor:
        """Generated image of z (B, n)."""
        image: Tensor = self.generator(z)
        return image


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them: (B, sizes[0]) -> (B, sizes[-1])."""
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mlp_autoencoder(data_dim: int, latent_dim: int, widths: Sequence[int]) -> Autoencoder:
    """Autoencoder of the 2-D protocol: hidden layers of these widths, mirrored in the decoder; points (B, data_dim)."""
    features = nn.Sequential(mlp([data_dim, *widths]), nn.ReLU())
    encoder = nn.Sequential(features, GaussianHead(widths[-1], latent_dim))
    return Autoencoder(encoder, mlp([latent_dim, *reversed(widths), data_dim]), latent_dim)


def mlp_gan(data_dim: int, latent_dim: int, widths: Sequence[int]) -> GAN:
    """WGAN-GP pair of the same size as `mlp_autoencoder`."""
    critic = nn.Sequential(mlp([data_dim, *widths, 1]), nn.Flatten(0))
    return GAN(critic, mlp([latent_dim, *reversed(widths), data_dim]), latent_dim)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a skip connection: (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(channels_in, channels_out, 1, bias=False) if channels_in != channels_out else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.skip(x) + self.body(x), 0.2)


def conv_autoencoder(image_shape: Sequence[int], latent_dim: int, widths: Sequence[int]) -> Autoencoder:
    """Residual convolutional autoencoder of the image protocol (Daniel & Tamar 2021), images (B, C, H, H) in [0, 1].

    widths: channels after each halving of the resolution; H must divide by 2 ** len(widths), else ValueError.
    The decoder's output is not squashed: clamp it to [0, 1] to show or score it.
    """
    channels, height, width = image_shape
    if height != width or height % 2 ** len(widths):
        raise ValueError(f"widths={tuple(widths)} halves the image {len(widths)} times, which {height}x{width} does not allow")
    grid = (widths[-1], height // 2 ** len(widths), width // 2 ** len(widths))
    features = grid[0] * grid[1] * grid[2]

    down: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 5, padding=2, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(2),
    ]
    for width_in, width_out in itertools.pairwise(widths):
        down += [ResidualBlock(width_in, width_out), nn.AvgPool2d(2)]
    encoder = nn.Sequential(*down, ResidualBlock(widths[-1], widths[-1]), nn.Flatten(), GaussianHead(features, latent_dim))

    up: list[nn.Module] = [nn.Linear(latent_dim, features), nn.ReLU(), nn.Unflatten(1, grid)]
    for width_in, width_out in zip([widths[-1], *reversed(widths)], reversed(widths), strict=False):
        up += [ResidualBlock(width_in, width_out), nn.Upsample(scale_factor=2)]
    decoder = nn.Sequential(*up, ResidualBlock(widths[0], widths[0]), nn.Conv2d(widths[0], channels, 5, padding=2))
    return Autoencoder(encoder, decoder, latent_dim)
