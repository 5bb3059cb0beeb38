"""AS-IntroVAE (Eqs. 4 and 7 of AS-IntroVAE, signs repaired): Soft-IntroVAE whose fakes are also told apart by the AS-Distance."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from asintrovae.collectives import gather
from asintrovae.theory.distance import as_distance
from asintrovae.theory.gaussian import Gaussian
from asintrovae.theory.objectives.base import (
    Model,
    Noise,
    Phase,
    Terms,
    above_rounding,
    annealed,
    reconstruction_error,
    unless,
)


def annealing_weight(
    i: float | Tensor,
    T: float,
    schedule: Literal["linear", "tanh"] = "linear",
) -> float | Tensor:
    """Return c, the weight of the KL divergence against the AS-Distance (below Eq. 7).

    i: current iteration, 0 ≤ i, a number or a tensor. T: total number of iterations, > 0.
    schedule: "linear", min(5 i / T, 1) as in the paper; "tanh", tanh(5 i / T) as in its code.
    Raises ValueError for numbers outside these ranges and for another schedule.
    """
    if schedule not in ("linear", "tanh"):
        raise ValueError(f"schedule={schedule!r} is not one of 'linear', 'tanh'")
    if isinstance(i, Tensor):
        return (5 * i / T).clamp(max=1) if schedule == "linear" else (5 * i / T).tanh()
    if not (T > 0 and i >= 0):
        raise ValueError(f"annealing_weight needs i >= 0 and T > 0, got i={i}, T={T}")
    return min(5 * i / T, 1.0) if schedule == "linear" else math.tanh(5 * i / T)


@dataclass(frozen=True)
class ASIntroVAE:
    """Soft-IntroVAE with each KL(x_s), s = r, g, replaced by KL_s = c KL(x_s) + (1 - c) D; at c = 1 it is Soft-IntroVAE.

    encoder: κ E[β_rec R(x) + β_kl KL(x)] + 1/(2α) Σ_s E exp(-ακ (β_rec R(sg x_s) + β_neg KL_s))
    decoder: κ E[β_rec R(x) + ½ β_kl Σ_s KL_s + ½ γ_r β_rec Σ_s R(sg x_s)]
    so that the encoder raises D and the decoder lowers it (Eq. 4).
    beta_rec, beta_kl, beta_neg, alpha, gamma_r, kl_annealing: as in `SoftIntroVAE`. kernel, estimator: of D, as in `as_distance`.
    pairing: D of generated images against "reconstructed" ones, as published in code, or against "real" ones (Eq. 3).
    squash: D of tanh(μ) and tanh(log λ), as published in code; in no equation.
    distance_weight: multiplies D, whose scale is far below that of the KL divergence; 1 is the paper's form.
    c: fixed weight in [0, 1] (the supplement's ablation), or None for the annealed `annealing_weight`.
    The other fields are the differences of the published code; none of them is in an equation.
    detach_fakes: as in `SoftIntroVAE`.
    c_schedule: of the annealed c, as in `annealing_weight`.
    distance_reduction: D of the encoder phase, a "mean" over pairs and latent axes or a "sum", which
        is B² n times it (B² times where the kernel is a product); the decoder phase has the mean.
    distance_weight_decoder: weight of D in the decoder phase, where D stands twice; None:
        distance_weight.
    squash_kl: in the decoder phase KL(x_s), too, is of the posterior with tanh(μ), tanh(log λ).
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    beta_neg: float = 1.0
    alpha: float = 2.0
    gamma_r: float = 1e-8
    kl_annealing: float = 0.0
    kernel: Literal["mean", "product", "prior"] = "mean"
    estimator: Literal["v", "u"] = "v"
    pairing: Literal["reconstructed", "real"] = "reconstructed"
    squash: bool = False
    distance_weight: float = 1.0
    c: float | None = None
    detach_fakes: bool = True
    c_schedule: Literal["linear", "tanh"] = "linear"
    distance_reduction: Literal["mean", "sum"] = "mean"
    distance_weight_decoder: float | None = None
    squash_kl: bool = False

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
        """ELBO on real images up, ELBO of the fakes down, D up."""
        kappa = 1 / x[0].numel()
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps))
        x_g = model.decode(noise.z).detach()
        rec, kl = reconstruction_error(x, x_r), q.kl()
        q_r, q_g = model.encode(x_r.detach()), model.encode(x_g)
        x_r = x_r.detach() if self.detach_fakes else x_r
        rec_r = reconstruction_error(x_r, model.decode(q_r.sample(noise.eps_r)))
        rec_g = reconstruction_error(x_g, model.decode(q_g.sample(noise.eps_g)))
        kl_r, kl_g, distance = self.divergences("encoder", q, q_r, q_g, progress)
        exp_elbo_r = (-self.alpha * kappa * (self.beta_rec * rec_r + self.beta_neg * kl_r)).exp()
        exp_elbo_g = (-self.alpha * kappa * (self.beta_rec * rec_g + self.beta_neg * kl_g)).exp()
        real = kappa * (
            self.beta_rec * rec + annealed(self.beta_kl, progress, self.kl_annealing) * kl
        )
        loss = (real + (exp_elbo_r + exp_elbo_g) / (2 * self.alpha)).mean()
        terms = {
            "rec": rec,
            "kl": kl,
            "kl_r": q_r.kl(),
            "kl_g": q_g.kl(),
            "exp_elbo_r": exp_elbo_r,
            "exp_elbo_g": exp_elbo_g,
        }
        return loss, {name: term.mean() for name, term in terms.items()} | distance

    def decoder_loss(
        self, model: Model, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Reconstruction, and both the KL of the fakes and D pulled down through the encoder."""
        kappa = 1 / x[0].numel()
        q = model.encode(x)
        x_r = model.decode(q.sample(noise.eps).detach())
        x_g = model.decode(noise.z)
        q_r, q_g = model.encode(x_r), model.encode(x_g)
        rec = reconstruction_error(x, x_r)
        kl_r, kl_g, distance = self.divergences("decoder", q, q_r, q_g, progress)
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
        terms = {"rec": rec, "kl_r": q_r.kl(), "kl_g": q_g.kl()}
        return loss, {name: term.mean() for name, term in terms.items()} | distance

    def weight(self, progress: float) -> float | Tensor:
        """c at this point of the run: the fixed one, or annealed (annealing_weight)."""
        return annealing_weight(progress, 1.0, self.c_schedule) if self.c is None else self.c

    def divergences(
        self,
        phase: str,
        q: Gaussian,
        q_r: Gaussian,
        q_g: Gaussian,
        progress: float,
    ) -> tuple[Tensor, Tensor, Terms]:
        """KL_r and KL_g of Eq. 7, (B,) each, and D as a term. At c = 1 D has no part in them and is not evaluated."""
        c = self.weight(progress)
        if self.squash_kl and phase == "decoder":
            kl_r, kl_g = squashed(q_r).kl, squashed(q_g).kl
        else:
            kl_r, kl_g = q_r.kl, q_g.kl
        if not isinstance(c, Tensor) and c == 1:
            return kl_r(), kl_g(), {}
        distance = self.distance(q, q_r, q_g, phase)
        terms = {"distance": distance}
        return c * kl_r() + (1 - c) * distance, c * kl_g() + (1 - c) * distance, terms

    def distance(self, q: Gaussian, q_r: Gaussian, q_g: Gaussian, phase: str = "encoder") -> Tensor:
        """Return the weighted D of a phase, a scalar, over all processes.

        It is between generated images and what `pairing` sets against them.
        phase: "encoder" or "decoder".
        """
        q_other = Gaussian(*gather(q_r if self.pairing == "reconstructed" else q))
        q_g = Gaussian(*gather(q_g))
        if self.squash:
            q_other, q_g = squashed(q_other), squashed(q_g)
        distance = as_distance(
            q_other.mean, q_other.var, q_g.mean, q_g.var, self.kernel, self.estimator
        )
        if phase == "decoder":
            return unless(self.distance_weight_decoder, self.distance_weight) * distance
        if self.distance_reduction == "sum":
            axes = q_g.mean.shape[1] if self.kernel == "mean" else 1
            distance = distance * len(q_g.mean) ** 2 * axes
        return self.distance_weight * distance


def squashed(q: Gaussian) -> Gaussian:
    """Return posteriors (B, n) with tanh of the means and of the log-variances."""
    return Gaussian(q.mean.tanh(), q.logvar.tanh())
