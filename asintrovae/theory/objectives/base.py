"""The shape every objective shares: phases, the noise they consume, the terms they report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asintrovae.devices import moved
from asintrovae.theory.gaussian import Gaussian

Terms = dict[str, Tensor]
"""Scalars worth a curve, by name; the value that is minimised is the loss, not one of these."""


class Noise(NamedTuple):
    """All randomness of one phase of one iteration.

    Attributes:
        eps: of the posterior q(z|x) of real images, standard normal (B, n).
        z: of the prior p(z), decoded to the generated x_g, standard normal (B, n).
        eps_r: of q(z|x_r), standard normal (B, n).
        eps_g: of q(z|x_g), standard normal (B, n).
        mix: the ε of WGAN-GP, one number per example, uniform on [0, 1), (B,).
    """

    eps: Tensor
    z: Tensor
    eps_r: Tensor
    eps_g: Tensor
    mix: Tensor

    @classmethod
    def draw(cls, batch_size: int, latent_dim: int, generator: torch.Generator) -> "Noise":
        """Return fresh noise on the CPU, so that a seed means the same draws on every device.

        Args:
            batch_size: B.
            latent_dim: n.
            generator: CPU generator, as of `asintrovae.randomness.generator_for`.
        """
        eps, z, eps_r, eps_g = torch.randn(4, batch_size, latent_dim, generator=generator)
        return cls(eps, z, eps_r, eps_g, torch.rand(batch_size, generator=generator))

    def to(self, device: torch.device | str) -> "Noise":
        """Return the same noise on another device."""
        device = torch.device(device)
        if device.type != "cuda" or not self.eps.is_cpu:
            return Noise(*(moved(tensor, device) for tensor in self))
        # one copy, from pinned memory: five small ones take the host longer than a layer
        flat = torch.cat([tensor.flatten() for tensor in self]).pin_memory()
        parts = torch.split(moved(flat, device), [tensor.numel() for tensor in self])
        return Noise(*(part.view(own.shape) for part, own in zip(parts, self, strict=True)))


class Model(Protocol):
    """The two halves of a variational autoencoder, as the introspective objectives use them."""

    def encode(self, x: Tensor) -> Gaussian:
        """Return the posterior q(z|x) of images x (B, ...): mean and log-variance (B, n)."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the image Dec(z), (B, ...), of latents z (B, n)."""


Loss = Callable[[Any, Tensor, Noise, float], tuple[Tensor, Terms]]


@dataclass(frozen=True)
class Phase:
    """One step of an iteration.

    Attributes:
        name: names the curves of this phase.
        learns: the submodules of the model whose parameters the step may change.
        loss: pure function (model, x, noise, progress) -> (scalar loss, terms), with
            progress = i / T in [0, 1).
        steps: how often the phase runs per iteration, each time with fresh data and noise.
    """

    name: str
    learns: tuple[str, ...]
    loss: Loss
    steps: int = 1


class Objective(Protocol):
    """A frozen dataclass of hyper-parameters that knows the steps of one iteration.

    An object with a `phases` of this form is an objective, whatever its class.
    """

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The steps of one iteration, in order."""


@dataclass(frozen=True)
class WithWarmup:
    """An objective that is trained only after a number of iterations of another one.

    Attributes:
        objective: trained from iteration `iterations` on; `phases` are its phases.
        warmup: trained before it, in the book a VAE with the same weights.
        iterations: number of warm-up iterations, ≥ 0; at 0 there is no warm-up.
    """

    objective: Objective
    warmup: Objective
    iterations: int

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The steps of one iteration after the warm-up."""
        return self.objective.phases

    def phases_at(self, i: int) -> tuple[Phase, ...]:
        """Return the steps of iteration i ≥ 0: of the warm-up while i < iterations."""
        return (self.warmup if i < self.iterations else self.objective).phases


def phases_at(objective: Objective, i: int) -> tuple[Phase, ...]:
    """Return the steps of iteration i ≥ 0 of an objective with or without a warm-up."""
    return objective.phases_at(i) if isinstance(objective, WithWarmup) else objective.phases


def reconstruction_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Return R(x), the squared error summed over all axes but the first.

    It is -log p(x|z) of a Gaussian up to β_rec and a constant. It is summed, as the KL divergence
    is over the latent axes: averaging only one of the two changes the model.

    Args:
        x: images (B, ...).
        x_hat: their reconstructions, of the same shape.

    Returns:
        A number for each example, (B,).

    Example:
        >>> reconstruction_error(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([3., 3.])
    """
    return (x - x_hat).square().flatten(1).sum(1)


def means(**terms: Tensor) -> Terms:
    """Return the mean over the batch of each term, (B,), by name."""
    return {name: term.mean() for name, term in terms.items()}


def unless(value: float | Tensor | None, otherwise: float | Tensor) -> float | Tensor:
    """Return `value`, or `otherwise` where it is None."""
    return otherwise if value is None else value


def above_rounding(weight: float | Tensor, dtype: torch.dtype) -> bool:
    """Return True where a term of this relative weight shows in a sum of this dtype.

    γ_r = 1e-8 as published does in float64 and not in float32. There rounding moves the gradient
    that the term is added to further than the term: 3 times as far in the closest case that was
    measured, mostly 30 times and more. To leave the term out saves a fifth of the arithmetic; a run
    changes as it does with the number of threads.

    Args:
        weight: ≥ 0. A tensor, one weight for each member of an ensemble, always counts.
        dtype: of the sum.

    Example:
        >>> above_rounding(1e-8, torch.float32), above_rounding(1e-8, torch.float64)
        (False, True)
    """
    return isinstance(weight, Tensor) or weight > torch.finfo(dtype).eps


def annealed(beta_kl: float | Tensor, progress: float, share: float) -> float | Tensor:
    """Return β_kl at this point of the run (KL annealing, Bowman et al. 2016).

    It rises linearly from a tenth of β_kl to all of it, here in every place where β_kl stands.

    Args:
        beta_kl: the final weight.
        progress: share of the iterations that is done, i / T in [0, 1).
        share: share of the iterations over which β_kl rises, ≥ 0; at 0 it is constant.

    Example:
        >>> [annealed(1.0, progress, share=0.5) for progress in (0.0, 0.25, 0.75)]
        [0.1, 0.55, 1.0]
    """
    return beta_kl * min(0.1 + 0.9 * progress / share, 1.0) if share else beta_kl
