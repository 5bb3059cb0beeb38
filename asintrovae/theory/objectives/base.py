"""The shape every objective shares: phases, the noise they consume, the terms they report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asintrovae.theory.gaussian import Gaussian

Terms = dict[str, Tensor]
"""Scalars worth a curve, by name; the value that is minimised is the loss, not one of these."""


class Noise(NamedTuple):
    """All randomness of one phase of one iteration. Standard normal (B, n), but for `mix`, uniform on [0, 1), (B,)."""

    eps: Tensor  # of the posterior q(z|x) of real images
    z: Tensor  # of the prior p(z), decoded to the generated x_g
    eps_r: Tensor  # of q(z|x_r)
    eps_g: Tensor  # of q(z|x_g)
    mix: Tensor  # the ε of WGAN-GP, one number per example

    @classmethod
    def draw(cls, batch_size: int, latent_dim: int, generator: torch.Generator) -> "Noise":
        """Fresh noise on the CPU, whatever the device of the run, so that a seed means the same draws everywhere."""
        eps, z, eps_r, eps_g = torch.randn(4, batch_size, latent_dim, generator=generator)
        return cls(eps, z, eps_r, eps_g, torch.rand(batch_size, generator=generator))

    def to(self, device: torch.device | str) -> "Noise":
        """The same noise on another device."""
        return Noise(*(tensor.to(device, non_blocking=True) for tensor in self))


class Model(Protocol):
    """What the introspective objectives ask of a model: the two halves of a variational autoencoder."""

    def encode(self, x: Tensor) -> Gaussian:
        """Posterior q(z|x) of images x (B, ...): mean and log-variance (B, n)."""

    def decode(self, z: Tensor) -> Tensor:
        """Image Dec(z), (B, ...), of latents z (B, n)."""


Loss = Callable[[Any, Tensor, Noise, float], tuple[Tensor, Terms]]


@dataclass(frozen=True)
class Phase:
    """One step of an iteration.

    name: names the curves of this phase. learns: the submodules of the model whose parameters the step may change.
    loss: pure function (model, x, noise, progress) -> (scalar loss, terms), with progress = i / T in [0, 1).
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
        iterations: number of warm-up iterations, >= 0; at 0 there is no warm-up.
    """

    objective: Objective
    warmup: Objective
    iterations: int

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The steps of one iteration after the warm-up."""
        return self.objective.phases

    def phases_at(self, i: int) -> tuple[Phase, ...]:
        """Return the steps of iteration i >= 0: of the warm-up while i < iterations."""
        return (self.warmup if i < self.iterations else self.objective).phases


def phases_at(objective: Objective, i: int) -> tuple[Phase, ...]:
    """Return the steps of iteration i >= 0 of an objective with or without a warm-up."""
    return objective.phases_at(i) if isinstance(objective, WithWarmup) else objective.phases


def reconstruction_error(x: Tensor, x_hat: Tensor) -> Tensor:
    """R(x) = squared error summed over all axes but the first, (B,): the Gaussian -log p(x|z) up to β_rec and a constant.

    Summed, like the KL divergence over the latent axes: averaging only one of the two changes the model.
    """
    return (x - x_hat).square().flatten(1).sum(1)


def unless(value: float | Tensor | None, otherwise: float | Tensor) -> float | Tensor:
    """Return `value`, or `otherwise` where it is None."""
    return otherwise if value is None else value


def above_rounding(weight: float | Tensor, dtype: torch.dtype) -> bool:
    """Whether a term of this relative weight shows in a sum of this dtype; a tensor, one weight for each member, always may.

    γ_r = 1e-8 as published does in float64 and not in float32, where rounding moves the gradient it is added to further: 3 times
    as far at the least that was seen, mostly 30 times and more. Left out it saves a fifth of the arithmetic; a run changes as
    it does with the number of threads.
    """
    return isinstance(weight, Tensor) or weight > torch.finfo(dtype).eps


def annealed(beta_kl: float | Tensor, progress: float, share: float) -> float | Tensor:
    """β_kl at this point of the run: from a tenth of it linearly to all of it over the first `share` of the iterations.

    KL annealing (Bowman et al. 2016), here of every place where β_kl stands. At share 0 it is constant.
    """
    return beta_kl * min(0.1 + 0.9 * progress / share, 1.0) if share else beta_kl
