"""Soft-IntroVAE (Daniel & Tamar 2021; Eq. 2 of AS-IntroVAE)."""

from dataclasses import dataclass

from torch import Tensor

from asintrovae.theory.gaussian import Gaussian
from asintrovae.theory.objectives.base import (
    Model,
    Noise,
    Phase,
    Terms,
    above_rounding,
    annealed,
    means,
    reconstruction_error,
)


@dataclass(frozen=True)
class SoftIntroVAE:
    """IntroVAE with the margin replaced by a soft threshold, exp(α ELBO).

    encoder: κ E[β_rec R(x) + β_kl KL(x)]
             + 1/(2α) Σ_s E exp(-ακ (β_rec R(sg x_s) + β_neg KL(sg x_s))),  s = r, g
    decoder: κ E[β_rec R(x) + ½ β_kl Σ_s KL(x_s) + ½ γ_r β_rec Σ_s R(sg x_s)]
    with κ = 1 / (numbers in one image).

    Attributes:
        beta_rec: weight of the reconstruction error, > 0.
        beta_kl: weight of KL(x), and of KL(x_s) in the decoder phase, > 0.
        beta_neg: weight of KL(x_s) in the encoder phase, > 0.
        alpha: α > 0, sharpness of the threshold.
        gamma_r: γ_r ≥ 0, weight of reconstructing the fakes, a term that is left out where it
            would be lost in rounding (`above_rounding`).
        kl_annealing: share of the run over which β_kl rises (`annealed`).
        detach_fakes: False leaves out the sg of R(sg x_r) in the encoder phase, as published in
            code.
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
        """The encoder phase, then the decoder phase."""
        return (
            Phase("encoder", ("encoder",), self.encoder_loss),
            Phase("decoder", ("decoder",), self.decoder_loss),
        )

    def encoder_loss(
        self, model: Model, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Return the loss that raises the ELBO of real images and lowers that of fakes.

        It lowers the ELBO of a fake the less, the lower it is.
        """
        kappa = 1 / x[0].numel()
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps))
        x_g = model.decode(noise.z).detach()
        rec, kl = reconstruction_error(x, x_r), q.kl()
        q_r, q_g = model.encode(x_r.detach()), model.encode(x_g)
        x_r = x_r.detach() if self.detach_fakes else x_r
        rec_r = reconstruction_error(x_r, model.decode(q_r.sample(noise.eps_r)))
        rec_g = reconstruction_error(x_g, model.decode(q_g.sample(noise.eps_g)))
        kl_r, kl_g, terms = self.divergences("encoder", q, q_r, q_g, progress)
        exp_elbo_r = (-self.alpha * kappa * (self.beta_rec * rec_r + self.beta_neg * kl_r)).exp()
        exp_elbo_g = (-self.alpha * kappa * (self.beta_rec * rec_g + self.beta_neg * kl_g)).exp()
        beta_kl = annealed(self.beta_kl, progress, self.kl_annealing)
        real = kappa * (self.beta_rec * rec + beta_kl * kl)
        loss = (real + (exp_elbo_r + exp_elbo_g) / (2 * self.alpha)).mean()
        curves = means(rec=rec, kl=kl, kl_r=q_r.kl(), kl_g=q_g.kl())
        return loss, curves | means(exp_elbo_r=exp_elbo_r, exp_elbo_g=exp_elbo_g) | terms

    def decoder_loss(
        self, model: Model, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Return the loss that reconstructs, and lowers the KL of fakes through the encoder."""
        kappa = 1 / x[0].numel()
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps).detach())
        x_g = model.decode(noise.z)
        q_r, q_g = model.encode(x_r), model.encode(x_g)
        rec = reconstruction_error(x, x_r)
        kl_r, kl_g, terms = self.divergences("decoder", q, q_r, q_g, progress)
        beta_kl = annealed(self.beta_kl, progress, self.kl_annealing)
        fake = 0.5 * beta_kl * (kl_r + kl_g)
        if above_rounding(self.gamma_r, x.dtype):
            x_rr = model.decode(q_r.sample(noise.eps_r).detach())
            rec_r = reconstruction_error(x_r.detach(), x_rr)
            x_gr = model.decode(q_g.sample(noise.eps_g).detach())
            rec_g = reconstruction_error(x_g.detach(), x_gr)
            fake = fake + 0.5 * self.gamma_r * self.beta_rec * (rec_r + rec_g)
        loss = kappa * (self.beta_rec * rec + fake).mean()
        return loss, means(rec=rec, kl_r=q_r.kl(), kl_g=q_g.kl()) | terms

    def divergences(
        self, phase: str, q: Gaussian, q_r: Gaussian, q_g: Gaussian, progress: float
    ) -> tuple[Tensor, Tensor, Terms]:
        """Return KL(x_r) and KL(x_g), (B,) each, and further terms to report, here none.

        AS-IntroVAE replaces this method, and nothing else of the two losses.

        Args:
            phase: "encoder" or "decoder".
            q: posteriors of the real images.
            q_r: posteriors of the reconstructed images.
            q_g: posteriors of the generated images.
            progress: i / T in [0, 1).
        """
        return q_r.kl(), q_g.kl(), {}
