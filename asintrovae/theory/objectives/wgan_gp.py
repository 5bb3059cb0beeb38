"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017), the GAN baseline of the tables."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asintrovae.theory.objectives.base import Noise, Phase, Terms


class GANModel(Protocol):
    """What WGAN-GP asks of a model."""

    def critic(self, x: Tensor) -> Tensor:
        """Score f(x), (B,), of images (B, ...); no layer may mix the examples of a batch."""

    def decode(self, z: Tensor) -> Tensor:
        """Generated image, (B, ...), of latents z (B, n)."""


@dataclass(frozen=True)
class WGANGP:
    """critic: E f(x_g) - E f(x) + λ_gp E(‖∇f(x̂)‖₂ - 1)², x̂ = εx + (1-ε)x_g, one ε per example; generator: -E f(x_g).

    gradient_penalty: λ_gp ≥ 0; at 0 nothing limits the critic.
    critic_steps: steps of the critic, each on fresh data, per step of the generator.
    """

    gradient_penalty: float = 10.0
    critic_steps: int = 5

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Critic steps, then one of the generator."""
        return (
            Phase("critic", ("critic",), self.critic_loss, self.critic_steps),
            Phase("generator", ("generator",), self.generator_loss),
        )

    def critic_loss(
        self, model: GANModel, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Negative Kantorovich dual, with the penalty that keeps the critic close to 1-Lipschitz."""
        x_g = model.decode(noise.z).detach()
        wasserstein = model.critic(x).mean() - model.critic(x_g).mean()
        mix = noise.mix.reshape(-1, *[1] * (x.dim() - 1))
        slope = torch.linalg.vector_norm(
            input_gradient(model, mix * x + (1 - mix) * x_g).flatten(1), dim=1
        )
        penalty = (slope - 1).square().mean()
        return self.gradient_penalty * penalty - wasserstein, {
            "wasserstein": wasserstein,
            "penalty": penalty,
        }

    def generator_loss(
        self, model: GANModel, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Raise the critic's score of generated images."""
        score = model.critic(model.decode(noise.z)).mean()
        return -score, {"score_g": score}


def input_gradient(model: GANModel, x: Tensor) -> Tensor:
    """∇f at each x, (B, ...), differentiable in the critic's parameters; torch.func, so that it also runs under vmap."""
    # The sum's gradient is each example's own, because f(x_i) depends on x_i alone.
    gradient: Tensor = torch.func.grad(lambda points: model.critic(points).sum())(x)
    return gradient
