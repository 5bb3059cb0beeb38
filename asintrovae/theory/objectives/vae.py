"""Variational autoencoder (Kingma & Welling 2014; β-weights as in Higgins et al. 2017)."""

from dataclasses import dataclass

from torch import Tensor

from asintrovae.theory.objectives.base import (
    Model,
    Noise,
    Phase,
    Terms,
    annealed,
    reconstruction_error,
)


@dataclass(frozen=True)
class VAE:
    """L = E[β_rec R(x) + β_kl KL(x)], both halves together.

    beta_rec, beta_kl: weights of the summed squared error and of the KL divergence, > 0. Their ratio is a noise model,
    p(x|z) = N(Dec(z), σ² I) with σ² = β_kl / (2 β_rec). kl_annealing: share of the run over which β_kl rises (`annealed`).
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    kl_annealing: float = 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase: encoder and decoder learn jointly."""
        return (Phase("joint", ("encoder", "decoder"), self.loss),)

    def loss(self, model: Model, x: Tensor, noise: Noise, progress: float) -> tuple[Tensor, Terms]:
        """Negative ELBO of x (B, ...), averaged over the batch."""
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps))
        rec, kl = reconstruction_error(x, x_r), q.kl()
        loss = (
            self.beta_rec * rec + annealed(self.beta_kl, progress, self.kl_annealing) * kl
        ).mean()
        return loss, {"rec": rec.mean(), "kl": kl.mean()}
