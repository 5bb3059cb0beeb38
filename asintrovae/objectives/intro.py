"""IntroVAE (Huang et al. 2018; Eq. 1 of AS-IntroVAE with its signs and its missing reconstruction term repaired)."""

from dataclasses import dataclass

from torch import Tensor

from asintrovae.objectives.base import Model, Noise, Phase, Terms, annealed, reconstruction_error


@dataclass(frozen=True)
class IntroVAE:
    """Encoder and decoder play on the KL divergence of fakes, up to a hard margin m.

    encoder: E[β_rec R(x) + β_kl KL(x) + β_neg Σ_s max(0, m - KL(sg x_s))],  s = r, g
    decoder: E[β_rec R(x) + β_neg Σ_s KL(x_s)]
    beta_rec, beta_kl, beta_neg: weights, > 0. margin: m in nats, the KL above which the encoder stops pushing a fake.
    kl_annealing: share of the run over which β_kl rises (`annealed`).
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    beta_neg: float = 1.0
    margin: float = 10.0
    kl_annealing: float = 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Encoder, then decoder."""
        return (Phase("encoder", ("encoder",), self.encoder_loss), Phase("decoder", ("decoder",), self.decoder_loss))

    def encoder_loss(self, model: Model, x: Tensor, noise: Noise, progress: float) -> tuple[Tensor, Terms]:
        """ELBO on real images, KL of the fakes pushed up to the margin."""
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.posterior))
        x_g = model.decode(noise.prior)
        rec, kl = reconstruction_error(x, x_r), q.kl()
        kl_r, kl_g = model.encode(x_r.detach()).kl(), model.encode(x_g.detach()).kl()
        hinge = (self.margin - kl_r).clamp(min=0) + (self.margin - kl_g).clamp(min=0)
        loss = (self.beta_rec * rec + annealed(self.beta_kl, progress, self.kl_annealing) * kl + self.beta_neg * hinge).mean()
        return loss, {"rec": rec.mean(), "kl": kl.mean(), "kl_r": kl_r.mean(), "kl_g": kl_g.mean()}

    def decoder_loss(self, model: Model, x: Tensor, noise: Noise, progress: float) -> tuple[Tensor, Terms]:
        """Reconstruction, and the KL of the fakes pulled down through the encoder."""
        x_r = model.decode(model.encode(x).sample(noise.posterior).detach())
        x_g = model.decode(noise.prior)
        rec = reconstruction_error(x, x_r)
        kl_r, kl_g = model.encode(x_r).kl(), model.encode(x_g).kl()
        loss = (self.beta_rec * rec + self.beta_neg * (kl_r + kl_g)).mean()
        return loss, {"rec": rec.mean(), "kl_r": kl_r.mean(), "kl_g": kl_g.mean()}
