"""Two-dimensional densities: samplers for all of them, the exact density where there is one."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asintrovae.collectives import share
from asintrovae.devices import moved
from asintrovae.randomness import generator_for


class ToyDensity(Protocol):
    """Two-dimensional data set."""

    @property
    def extent(self) -> tuple[float, float]:
        """Bounds of both axes for histograms and pictures."""

    @property
    def centers(self) -> Tensor | None:
        """Modes (K, 2) where the data set has isolated ones, else None."""

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 2) points."""

    def log_density(self, x: Tensor) -> Tensor | None:
        """Return the log-density in nats at points.

        Args:
            x: (N, 2).

        Returns:
            (N,), -inf outside the support; None where there is no closed form.
        """


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Mixture of round Gaussians with equal weights.

    Attributes:
        centers: (K, 2).
        std: standard deviation per axis, > 0.
        extent: bounds of both axes.
    """

    centers: Tensor
    std: float
    extent: tuple[float, float]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 2) points."""
        index = torch.randint(len(self.centers), (count,), generator=generator)
        return self.centers[index] + self.std * torch.randn(count, 2, generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, (N,)."""
        distance_squared = (x.unsqueeze(1) - self.centers.to(x)).square().sum(-1)  # (N, K)
        log_component = -0.5 * distance_squared / self.std**2 - math.log(2 * math.pi * self.std**2)
        return log_component.logsumexp(1) - math.log(len(self.centers))


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on every other square of side 2 of [-4, 4]².

    They are the 8 whose column and row add up to an even number.
    """

    extent: tuple[float, float] = (-4.0, 4.0)
    centers: None = None

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 2) points."""
        column = torch.randint(-2, 2, (count,), generator=generator)
        row = 2 * torch.randint(-1, 1, (count,), generator=generator) + column.remainder(2)
        points: Tensor = 2 * (
            torch.stack([column, row], dim=1) + torch.rand(count, 2, generator=generator)
        )
        return points

    def log_density(self, x: Tensor) -> Tensor:
        """Return log(1/32) on the 8 squares, -inf elsewhere, (N,)."""
        inside = (x.abs() <= 4).all(1) & ((x / 2).floor().sum(1).remainder(2) == 0)
        return x.new_full((len(x),), -math.inf).masked_fill(inside, -math.log(32))


@dataclass(frozen=True)
class TwoSpirals:
    """Two interleaved arms, one and a half turns each, with square and round noise (as in FFJORD).

    There is no closed-form density.
    """

    extent: tuple[float, float] = (-4.0, 4.0)
    centers: None = None

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 2) points."""
        angle = 3 * math.pi * torch.rand(count, generator=generator).sqrt()
        arm = torch.stack([-angle.cos() * angle, angle.sin() * angle], dim=1)
        arm = arm + 0.5 * torch.rand(count, 2, generator=generator)
        side = torch.randint(2, (count, 1), generator=generator) * 2 - 1
        points: Tensor = side * arm / 3 + 0.1 * torch.randn(count, 2, generator=generator)
        return points

    def log_density(self, x: Tensor) -> None:
        """Return None: the arms' convolution with the noise has no closed form."""
        return None


@dataclass(frozen=True)
class Rings:
    """Concentric rings, equally likely, with Gaussian noise on the radius.

    Attributes:
        radii: of the centre lines.
        std: standard deviation of the radius.
        extent: bounds of both axes.
        centers: None, there are no isolated modes.
    """

    radii: tuple[float, ...] = (0.75, 1.5, 2.25, 3.0)
    std: float = 0.08
    extent: tuple[float, float] = (-4.0, 4.0)
    centers: None = None

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 2) points."""
        ring = torch.tensor(self.radii)[
            torch.randint(len(self.radii), (count,), generator=generator)
        ]
        radius = ring + self.std * torch.randn(count, generator=generator)
        angle = 2 * math.pi * torch.rand(count, generator=generator)
        return radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], dim=1)

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, (N,).

        A negative radius, nine deviations out on the smallest ring, is left out.
        """
        radius = x.norm(dim=1, keepdim=True)
        log_radius: Tensor = -0.5 * (
            (radius - torch.tensor(self.radii).to(x)) / self.std
        ).square() - math.log(self.std * math.sqrt(2 * math.pi))
        log_angle: Tensor = -(2 * math.pi * radius.squeeze(1)).log()
        return log_angle + log_radius.logsumexp(1) - math.log(len(self.radii))


def eight_gaussians() -> GaussianMixture:
    """Return 8 Gaussians on a circle of radius √2, σ = 0.02/√2, as in the tables."""
    angle = torch.arange(8) * math.pi / 4
    return GaussianMixture(
        math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1), 0.02 / math.sqrt(2), (-2.0, 2.0)
    )


def twenty_five_gaussians() -> GaussianMixture:
    """Return 25 Gaussians on a 5 x 5 grid with step 1/√2, σ = 0.05/√8.

    They are those of the WGAN-GP paper's toys.
    """
    axis = torch.arange(-2, 3) / math.sqrt(2)
    return GaussianMixture(torch.cartesian_prod(axis, axis), 0.05 / math.sqrt(8), (-2.0, 2.0))


DENSITIES: dict[str, Callable[[], ToyDensity]] = {
    "8gaussians": eight_gaussians,
    "25gaussians": twenty_five_gaussians,
    "checkerboard": Checkerboard,
    "2spirals": TwoSpirals,
    "rings": Rings,
}


def toy_density(name: str) -> ToyDensity:
    """Return the two-dimensional data set of this name.

    Raises:
        ValueError: for a name not in DENSITIES.

    Example:
        >>> toy_density("8gaussians").centers.shape
        torch.Size([8, 2])
    """
    if name not in DENSITIES:
        raise ValueError(f"dataset={name!r} is not one of {', '.join(DENSITIES)}")
    return DENSITIES[name]()


class ToyData:
    """Endless fresh batches of a 2-D density; the batch of iteration i depends on (seed, i) alone.

    Args:
        density: the data set.
        batch_size: B.
        seed: of the run.
        device: where batches go.
    """

    def __init__(
        self, density: ToyDensity, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.density, self.batch_size, self.seed, self.device = density, batch_size, seed, device

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, (2,)."""
        return (2,)

    @property
    def fingerprint(self) -> str:
        """Name of the density: points are drawn, so that there are no files to differ."""
        return type(self.density).__name__

    def batch(self, index: int) -> Tensor:
        """Return batch number `index`, (B, 2), or this process's share of it."""
        points = share(
            self.density.sample(self.batch_size, generator_for(self.seed, "data", index))
        )
        return moved(points, self.device)

    def evaluation(self, count: int) -> Tensor:
        """Return `count` points for evaluation, (count, 2).

        They are the same for every run of this seed, none of them from a batch.
        """
        return self.density.sample(count, generator_for(self.seed, "evaluation")).to(self.device)
