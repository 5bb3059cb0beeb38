"""Variational autoencoder (Kingma & Welling 2014; β-weights as in Higgins et al. 2017)."""

from dataclasses import dataclass

from torch import Tensor

from asintrovae.theory.objectives.base import (
    Model,
    Noise,
    Phase,
    Terms,
    annealed,
    means,
    reconstruction_error,
)


@dataclass(frozen=True)
class VAE:
    """L = E[β_rec R(x) + β_kl KL(x)], both halves together.

    The ratio of the weights is a noise model, p(x|z) = N(Dec(z), σ² I) with σ² = β_kl / (2 β_rec).

    Attributes:
        beta_rec: weight of the summed squared error, > 0.
        beta_kl: weight of the KL divergence, > 0.
        kl_annealing: share of the run over which β_kl rises (`annealed`).
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    kl_annealing: float = 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase, in which encoder and decoder learn jointly."""
        return (Phase("joint", ("encoder", "decoder"), self.loss),)

    def loss(self, model: Model, x: Tensor, noise: Noise, progress: float) -> tuple[Tensor, Terms]:
        """Return the negative ELBO of x (B, ...), averaged over the batch, and its terms."""
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps))
        rec, kl = reconstruction_error(x, x_r), q.kl()
        beta_kl = annealed(self.beta_kl, progress, self.kl_annealing)
        loss = (self.beta_rec * rec + beta_kl * kl).mean()
        return loss, means(rec=rec, kl=kl)
