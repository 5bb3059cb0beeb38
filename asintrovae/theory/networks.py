"""Encoders, decoders and critics.

For points they are the MLPs of the 2-D protocol, for images the residual convolutions of the image
protocol.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asintrovae.theory.batchnorm import BatchNorm2d
from asintrovae.theory.gaussian import Gaussian, bounded, full_precision

LOGVAR_RANGE = (-20.0, 20.0)
"""Range of every encoder's log-variance (`bounded`): exp of it, and sums, are finite in float32."""

PUBLISHED_WIDTHS = {
    28: (64, 128),
    32: (64, 128, 256),
    128: (64, 128, 256, 512, 512),
    256: (64, 128, 256, 512, 512, 512),
}
"""Resolution H -> `widths` of the image protocol, the channels after each halving."""


class GaussianHead(nn.Module):
    """Linear map from features (B, F) to a posterior, its log-variance bounded by LOGVAR_RANGE.

    Args:
        features: F.
        latent_dim: axes n of the posterior.
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)

    def forward(self, features: Tensor) -> Gaussian:
        mean, logvar = full_precision(self.linear(features)).chunk(2, dim=-1)
        return Gaussian(mean, bounded(logvar, *LOGVAR_RANGE))


class Autoencoder(nn.Module):
    """The two halves of an (introspective) VAE.

    Args:
        encoder: module (B, ...) -> Gaussian of (B, n).
        decoder: module (B, n) -> (B, ...).
        latent_dim: n.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latent_dim = encoder, decoder, latent_dim

    def encode(self, x: Tensor) -> Gaussian:
        """Return the posterior q(z|x) of x (B, ...)."""
        posterior: Gaussian = self.encoder(x)
        return posterior

    def decode(self, z: Tensor) -> Tensor:
        """Return the image Dec(z) of z (B, n); with `NoisyDecoder` a draw about it."""
        return full_precision(self.decoder(z))


class GAN(nn.Module):
    """The two halves of WGAN-GP.

    Args:
        critic: module (B, ...) -> (B,).
        generator: module (B, n) -> (B, ...).
        latent_dim: n.
    """

    def __init__(self, critic: nn.Module, generator: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.critic, self.generator, self.latent_dim = critic, generator, latent_dim

    def decode(self, z: Tensor) -> Tensor:
        """Return the generated image of z (B, n)."""
        return full_precision(self.generator(z))


class CriticHead(nn.Linear):
    """Linear map from features (B, F) to a critic's score (B,)."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 1)

    def forward(self, features: Tensor) -> Tensor:
        return full_precision(super().forward(features)).squeeze(1)


FOURIER_SCALE = 2.0
"""Standard deviation of the initial frequencies of `FourierFeatures`, in radians per unit of x."""


class FourierFeatures(nn.Module):
    """Layer that widens x by sinusoids sin(Ω x + ω): (B, d) -> (B, d + features).

    An MLP learns sharp edges slowly from x alone, and fast from sinusoids of it (Tancik et al.
    2020, where Ω is fixed). Here Ω and ω are learnt with the rest.

    Args:
        data_dim: d.
        features: number of sinusoids.
    """

    def __init__(self, data_dim: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(data_dim, features)
        nn.init.normal_(self.linear.weight, std=FOURIER_SCALE)
        nn.init.uniform_(self.linear.bias, -math.pi, math.pi)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.linear(x).sin()], dim=-1)


def mlp(sizes: Sequence[int], fourier_features: int = 0) -> nn.Sequential:
    """Return linear layers with ReLU between them: (B, sizes[0]) -> (B, sizes[-1]).

    Args:
        sizes: of the input, of the hidden layers and of the output.
        fourier_features: number of sinusoids of the input beside it (`FourierFeatures`); 0: none.
    """
    size_in, *sizes_out = sizes
    layers: list[nn.Module] = []
    if fourier_features:
        layers.append(FourierFeatures(size_in, fourier_features))
    for features_in, features_out in itertools.pairwise([size_in + fourier_features, *sizes_out]):
        layers += [nn.Linear(features_in, features_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mlp_autoencoder(
    data_dim: int,
    latent_dim: int,
    widths: Sequence[int],
    decoder_std: float = 0.0,
    fourier_features: int = 0,
) -> Autoencoder:
    """Return the autoencoder of the 2-D protocol, for points (B, data_dim).

    Args:
        data_dim: coordinates of a point.
        latent_dim: n.
        widths: of the encoder's hidden layers, mirrored in the decoder.
        decoder_std: σ of p(x|z) = N(Dec(z), σ² I). At 0 the decoder gives the mean, as published.
            Above it draws, with the last data_dim of the n > data_dim latent axes as its noise
            (`NoisyDecoder`), which the encoder leaves at the prior (`PriorAxes`).
        fourier_features: number of sinusoids of their input that both halves see beside it.
    """
    noise_axes = data_dim if decoder_std else 0
    axes = latent_dim - noise_axes
    features = nn.Sequential(mlp([data_dim, *widths], fourier_features), nn.ReLU())
    encoder = nn.Sequential(features, GaussianHead(widths[-1], axes))
    decoder: nn.Module = mlp([axes, *reversed(widths), data_dim], fourier_features)
    if decoder_std:
        encoder.append(PriorAxes(noise_axes))
        decoder = NoisyDecoder(decoder, decoder_std, noise_axes)
    return Autoencoder(encoder, decoder, latent_dim)


class NoisyDecoder(nn.Module):
    """Decoder that draws x = Dec(z) + σ ε of p(x|z) = N(Dec(z), σ² I): (B, n) -> (B, noise_axes).

    Args:
        mean: module of the other axes -> Dec(z), (B, noise_axes).
        std: σ ≥ 0.
        noise_axes: number of the last of the n axes, which are ε.
    """

    def __init__(self, mean: nn.Module, std: float, noise_axes: int) -> None:
        super().__init__()
        self.mean, self.std, self.noise_axes = mean, std, noise_axes

    def forward(self, z: Tensor) -> Tensor:
        z, noise = z[:, : -self.noise_axes], z[:, -self.noise_axes :]
        drawn: Tensor = self.mean(z) + self.std * noise
        return drawn


class PriorAxes(nn.Module):
    """Layer that widens a posterior by axes that are N(0, 1) whatever x is.

    They add nothing to any KL. In the AS-Distance they cancel too, but a mean over the axes divides
    by their number.

    Args:
        axes: how many are added.
    """

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, q: Gaussian) -> Gaussian:
        mean, logvar = (nn.functional.pad(part, (0, self.axes)) for part in q)
        return Gaussian(mean, logvar)


def mlp_gan(
    data_dim: int, latent_dim: int, widths: Sequence[int], fourier_features: int = 0
) -> GAN:
    """Return a WGAN-GP pair of the same size as `mlp_autoencoder`, with the same arguments."""
    features = mlp([data_dim, *widths], fourier_features)
    critic = nn.Sequential(features, nn.ReLU(), CriticHead(widths[-1]))
    generator = mlp([latent_dim, *reversed(widths), data_dim], fourier_features)
    return GAN(critic, generator, latent_dim)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection: (B, C, H, W) -> (B, C', H, W).

    Args:
        channels_in: C.
        channels_out: C'.
        norm: makes the layer behind each convolution from its channels; nn.Identity for none.
    """

    def __init__(
        self, channels_in: int, channels_out: int, norm: Callable[[int], nn.Module] = BatchNorm2d
    ) -> None:
        super().__init__()
        bias = norm is nn.Identity  # BatchNorm has its own
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.skip = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias),
            norm(channels_out),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=bias),
            norm(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(self.skip(x) + self.body(x), 0.2)


class Upsample(nn.Upsample):
    """Upsampling that repeats pixels in the type that they have.

    On CUDA autocast would widen them to float32, and half of the decoder with them: twice the
    bytes, and a cast around each layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):
            return super().forward(x)


def conv_autoencoder(
    image_shape: Sequence[int], latent_dim: int, widths: Sequence[int]
) -> Autoencoder:
    """Return the residual convolutional autoencoder of the image protocol (Daniel & Tamar 2021).

    The decoder's output is not squashed: clamp it to [0, 1] to show or score it.

    Args:
        image_shape: (C, H, H) of images in [0, 1].
        latent_dim: n.
        widths: channels after each halving of the resolution, as PUBLISHED_WIDTHS.

    Raises:
        ValueError: where H does not divide by 2 ** len(widths).
    """
    features = math.prod(smallest_grid(image_shape, widths))
    encoder = nn.Sequential(*conv_features(image_shape, widths), GaussianHead(features, latent_dim))
    return Autoencoder(encoder, conv_decoder(image_shape, latent_dim, widths), latent_dim)


def conv_gan(image_shape: Sequence[int], latent_dim: int, widths: Sequence[int]) -> GAN:
    """Return a WGAN-GP pair of the same size as `conv_autoencoder`, with the same arguments.

    It is that model's decoder, and its encoder without BatchNorm as the critic. BatchNorm would mix
    the examples of a batch, and the penalty is a slope per example (Gulrajani et al. 2017, Sec. 4).
    """
    features = math.prod(smallest_grid(image_shape, widths))
    layers = conv_features(image_shape, widths, nn.Identity)
    critic = nn.Sequential(*layers, CriticHead(features))
    return GAN(critic, conv_decoder(image_shape, latent_dim, widths), latent_dim)


def smallest_grid(image_shape: Sequence[int], widths: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape (C, H, H) between convolutions and linear layer.

    Raises:
        ValueError: for images that are not square or cannot be halved so often.
    """
    _, height, width = image_shape
    halvings = len(widths)
    if height != width or height % 2**halvings:
        asked = f"widths={tuple(widths)} halves the image {halvings} times"
        raise ValueError(f"{asked}, which {height}x{width} does not allow")
    return widths[-1], height // 2**halvings, width // 2**halvings


def conv_features(
    image_shape: Sequence[int],
    widths: Sequence[int],
    norm: Callable[[int], nn.Module] = BatchNorm2d,
) -> list[nn.Module]:
    """Return layers from images (B, C, H, H) to features (B, F), F the size of `smallest_grid`.

    Args:
        image_shape: (C, H, H).
        widths: channels after each halving of the resolution.
        norm: as in `ResidualBlock`.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(image_shape[0], widths[0], 5, padding=2, bias=norm is nn.Identity),
        norm(widths[0]),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(2),
    ]
    for width_in, width_out in itertools.pairwise(widths):
        layers += [ResidualBlock(width_in, width_out, norm), nn.AvgPool2d(2)]
    return [*layers, ResidualBlock(widths[-1], widths[-1], norm), nn.Flatten()]


def conv_decoder(
    image_shape: Sequence[int], latent_dim: int, widths: Sequence[int]
) -> nn.Sequential:
    """Return a module from latents (B, n) to images (B, C, H, H), the mirror of `conv_features`."""
    grid = smallest_grid(image_shape, widths)
    linear = nn.Linear(latent_dim, math.prod(grid))
    layers: list[nn.Module] = [linear, nn.ReLU(), nn.Unflatten(1, grid)]
    for width_in, width_out in itertools.pairwise([widths[-1], *reversed(widths)]):
        layers += [ResidualBlock(width_in, width_out), Upsample(scale_factor=2)]
    last = nn.Conv2d(widths[0], image_shape[0], 5, padding=2)
    return nn.Sequential(*layers, ResidualBlock(widths[0], widths[0]), last)
