"""IntroVAE (Huang et al. 2018).

Eq. 1 of AS-IntroVAE with its signs and its missing reconstruction term repaired.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from asintrovae.collectives import gather
from asintrovae.theory.gaussian import Gaussian
from asintrovae.theory.objectives.base import (
    Model,
    Noise,
    Phase,
    Terms,
    annealed,
    means,
    reconstruction_error,
    unless,
)


@dataclass(frozen=True)
class IntroVAE:
    """Encoder and decoder play on the KL divergence of fakes, up to a hard margin m.

    encoder: E[β_rec R(x) + β_kl KL(x) + β_neg Σ_s max(0, m - KL(sg x_s))],  s = r, g
    decoder: E[β_rec R(x) + β_neg Σ_s KL(x_s)]

    Attributes:
        beta_rec: weight of the reconstruction error, > 0.
        beta_kl: weight of the KL divergence of real images, > 0.
        beta_neg: weight of the KL divergences of the fakes, > 0.
        margin: m in nats, the KL above which the encoder stops pushing a fake.
        kl_annealing: share of the run over which β_kl rises (`annealed`).
        beta_rec_decoder: β_rec of the decoder phase; None: beta_rec.
        beta_neg_decoder: β_neg of the decoder phase; None: beta_neg.
        hinge: max(0, m - KL) of each "example", or of the mean KL of the "batch".
        reconstruction_hinge: multiplies the hinge of x_r, ≥ 0; 1 is the paper's form.
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    beta_neg: float = 1.0
    margin: float = 10.0
    kl_annealing: float = 0.0
    beta_rec_decoder: float | None = None
    beta_neg_decoder: float | None = None
    hinge: Literal["example", "batch"] = "example"
    reconstruction_hinge: float = 1.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The encoder phase, then the decoder phase."""
        return (
            Phase("encoder", ("encoder",), self.encoder_loss),
            Phase("decoder", ("decoder",), self.decoder_loss),
        )

    def encoder_loss(
        self, model: Model, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Return the loss that fits real images and pushes the KL of fakes up to the margin."""
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps))
        x_g = model.decode(noise.z)
        rec, kl = reconstruction_error(x, x_r), q.kl()
        q_r, q_g = model.encode(x_r.detach()), model.encode(x_g.detach())
        hinge = self.reconstruction_hinge * self.shortfall(q_r) + self.shortfall(q_g)
        beta_kl = annealed(self.beta_kl, progress, self.kl_annealing)
        loss = (self.beta_rec * rec + beta_kl * kl + self.beta_neg * hinge).mean()
        return loss, means(rec=rec, kl=kl, kl_r=q_r.kl(), kl_g=q_g.kl())

    def decoder_loss(
        self, model: Model, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Return the loss that reconstructs, and lowers the KL of fakes through the encoder."""
        x_r = model.decode(model.encode(x).sample(noise.eps).detach())
        x_g = model.decode(noise.z)
        rec = reconstruction_error(x, x_r)
        kl_r, kl_g = model.encode(x_r).kl(), model.encode(x_g).kl()
        beta_rec = unless(self.beta_rec_decoder, self.beta_rec)
        beta_neg = unless(self.beta_neg_decoder, self.beta_neg)
        loss = (beta_rec * rec + beta_neg * (kl_r + kl_g)).mean()
        return loss, means(rec=rec, kl_r=kl_r, kl_g=kl_g)

    def shortfall(self, q: Gaussian) -> Tensor:
        """Return max(0, m - KL): (B,), or with hinge "batch" a scalar over all processes."""
        kl = q.kl() if self.hinge == "example" else Gaussian(*gather(q)).kl().mean()
        return (self.margin - kl).clamp(min=0)
