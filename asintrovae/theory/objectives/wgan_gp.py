"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017), the GAN baseline of the tables."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asintrovae.theory.objectives.base import Noise, Phase, Terms


class GANModel(Protocol):
    """The critic and the generator of a GAN, as WGAN-GP uses them."""

    def critic(self, x: Tensor) -> Tensor:
        """Return the score f(x), (B,), of images (B, ...); no layer may mix the examples."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the generated image, (B, ...), of latents z (B, n)."""


@dataclass(frozen=True)
class WGANGP:
    """Wasserstein GAN whose critic is kept close to 1-Lipschitz by a penalty on its slope.

    critic: E f(x_g) - E f(x) + λ_gp E(‖∇f(x̂)‖₂ - 1)²,  x̂ = ε x + (1 - ε) x_g, one ε per example
    generator: -E f(x_g)

    Attributes:
        gradient_penalty: λ_gp ≥ 0; at 0 nothing limits the critic.
        critic_steps: steps of the critic, each on fresh data, per step of the generator.
    """

    gradient_penalty: float = 10.0
    critic_steps: int = 5

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The critic phase, of several steps, then the generator phase."""
        return (
            Phase("critic", ("critic",), self.critic_loss, self.critic_steps),
            Phase("generator", ("generator",), self.generator_loss),
        )

    def critic_loss(
        self, model: GANModel, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Return the negative Kantorovich dual with the penalty, and both as terms."""
        x_g = model.decode(noise.z).detach()
        wasserstein = model.critic(x).mean() - model.critic(x_g).mean()
        mix = noise.mix.reshape(-1, *[1] * (x.dim() - 1))
        gradient = input_gradient(model, mix * x + (1 - mix) * x_g)
        slope = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        penalty = (slope - 1).square().mean()
        loss = self.gradient_penalty * penalty - wasserstein
        return loss, {"wasserstein": wasserstein, "penalty": penalty}

    def generator_loss(
        self, model: GANModel, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Return the loss that raises the critic's score of generated images."""
        score = model.critic(model.decode(noise.z)).mean()
        return -score, {"score_g": score}


def input_gradient(model: GANModel, x: Tensor) -> Tensor:
    """Return ∇f at each x, (B, ...), differentiable in the critic's parameters.

    It is made by torch.func, so that it also runs under vmap.
    """
    # The sum's gradient is each example's own, because f(x_i) depends on x_i alone.
    gradient: Tensor = torch.func.grad(lambda points: model.critic(points).sum())(x)
    return gradient
