"""Soft-IntroVAE (Daniel & Tamar 2021; Eq. 2 of AS-IntroVAE)."""

from dataclasses import dataclass

from torch import Tensor

from asintrovae.theory.objectives.base import (
    Model,
    Noise,
    Phase,
    Terms,
    above_rounding,
    annealed,
    reconstruction_error,
)


@dataclass(frozen=True)
class SoftIntroVAE:
    """IntroVAE with the margin replaced by a soft threshold, exp(α ELBO), κ = 1 / (numbers in one image).

    encoder: κ E[β_rec R(x) + β_kl KL(x)] + 1/(2α) Σ_s E exp(-ακ (β_rec R(sg x_s) + β_neg KL(sg x_s))),  s = r, g
    decoder: κ E[β_rec R(x) + ½ β_kl Σ_s KL(x_s) + ½ γ_r β_rec Σ_s R(sg x_s)]
    beta_rec, beta_kl, beta_neg: weights, > 0. alpha: α > 0, sharpness of the threshold. gamma_r: γ_r ≥ 0, weight of
    reconstructing the fakes, a term that is left out where it would be lost in rounding (`above_rounding`). kl_annealing:
    share of the run over which β_kl rises (`annealed`).
    detach_fakes: False leaves out the sg of R(sg x_r) in the encoder phase, as published in code.
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    beta_neg: float = 1.0
    alpha: float = 2.0
    gamma_r: float = 1e-8
    kl_annealing: float = 0.0
    detach_fakes: bool = True

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Encoder, then decoder."""
        return (
            Phase("encoder", ("encoder",), self.encoder_loss),
            Phase("decoder", ("decoder",), self.decoder_loss),
        )

    def encoder_loss(
        self, model: Model, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """ELBO on real images up, ELBO of the fakes down, less so the lower it is."""
        kappa = 1 / x[0].numel()
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps))
        x_g = model.decode(noise.z).detach()
        rec, kl = reconstruction_error(x, x_r), q.kl()
        q_r, q_g = model.encode(x_r.detach()), model.encode(x_g)
        x_r = x_r.detach() if self.detach_fakes else x_r
        rec_r = reconstruction_error(x_r, model.decode(q_r.sample(noise.eps_r)))
        rec_g = reconstruction_error(x_g, model.decode(q_g.sample(noise.eps_g)))
        kl_r, kl_g = q_r.kl(), q_g.kl()
        exp_elbo_r = (-self.alpha * kappa * (self.beta_rec * rec_r + self.beta_neg * kl_r)).exp()
        exp_elbo_g = (-self.alpha * kappa * (self.beta_rec * rec_g + self.beta_neg * kl_g)).exp()
        real = kappa * (
            self.beta_rec * rec + annealed(self.beta_kl, progress, self.kl_annealing) * kl
        )
        loss = (real + (exp_elbo_r + exp_elbo_g) / (2 * self.alpha)).mean()
        terms = {
            "rec": rec,
            "kl": kl,
            "kl_r": kl_r,
            "kl_g": kl_g,
            "exp_elbo_r": exp_elbo_r,
            "exp_elbo_g": exp_elbo_g,
        }
        return loss, {name: term.mean() for name, term in terms.items()}

    def decoder_loss(
        self, model: Model, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Reconstruction, and the KL of the fakes pulled down through the encoder."""
        kappa = 1 / x[0].numel()
        x_r = model.decode(model.encode(x).sample(noise.eps).detach())
        x_g = model.decode(noise.z)
        q_r, q_g = model.encode(x_r), model.encode(x_g)
        rec = reconstruction_error(x, x_r)
        kl_r, kl_g = q_r.kl(), q_g.kl()
        fake = 0.5 * annealed(self.beta_kl, progress, self.kl_annealing) * (kl_r + kl_g)
        if above_rounding(self.gamma_r, x.dtype):
            rec_r = reconstruction_error(
                x_r.detach(), model.decode(q_r.sample(noise.eps_r).detach())
            )
            rec_g = reconstruction_error(
                x_g.detach(), model.decode(q_g.sample(noise.eps_g).detach())
            )
            fake = fake + 0.5 * self.gamma_r * self.beta_rec * (rec_r + rec_g)
        loss = kappa * (self.beta_rec * rec + fake).mean()
        return loss, {"rec": rec.mean(), "kl_r": kl_r.mean(), "kl_g": kl_g.mean()}
