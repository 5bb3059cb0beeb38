"""AS-IntroVAE (Eqs. 4 and 7 of AS-IntroVAE, signs repaired).

Soft-IntroVAE whose fakes are also told apart by the AS-Distance.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from asintrovae.collectives import gather
from asintrovae.theory.distance import as_distance
from asintrovae.theory.gaussian import Gaussian
from asintrovae.theory.objectives.base import Terms, unless
from asintrovae.theory.objectives.soft_intro import SoftIntroVAE


def annealing_weight(
    i: float | Tensor,
    T: float,
    schedule: Literal["linear", "tanh"] = "linear",
) -> float | Tensor:
    """Return c, the weight of the KL divergence against the AS-Distance (below Eq. 7).

    Args:
        i: current iteration, ≥ 0, a number or a tensor.
        T: total number of iterations, > 0.
        schedule: "linear", min(5 i / T, 1) as in the paper; "tanh", tanh(5 i / T) as in its code.

    Raises:
        ValueError: for numbers outside these ranges and for another schedule.

    Example:
        >>> [annealing_weight(i, 1000) for i in (0, 100, 500)]
        [0.0, 0.5, 1.0]
    """
    if schedule not in ("linear", "tanh"):
        raise ValueError(f"schedule={schedule!r} is not one of 'linear', 'tanh'")
    if isinstance(i, Tensor):
        return (5 * i / T).clamp(max=1) if schedule == "linear" else (5 * i / T).tanh()
    if not (T > 0 and i >= 0):
        raise ValueError(f"annealing_weight needs i >= 0 and T > 0, got i={i}, T={T}")
    return min(5 * i / T, 1.0) if schedule == "linear" else math.tanh(5 * i / T)


@dataclass(frozen=True)
class ASIntroVAE(SoftIntroVAE):
    """Soft-IntroVAE with each KL(x_s), s = r, g, replaced by KL_s = c KL(x_s) + (1 - c) D.

    encoder: κ E[β_rec R(x) + β_kl KL(x)] + 1/(2α) Σ_s E exp(-ακ (β_rec R(sg x_s) + β_neg KL_s))
    decoder: κ E[β_rec R(x) + ½ β_kl Σ_s KL_s + ½ γ_r β_rec Σ_s R(sg x_s)]
    so that the encoder raises D and the decoder lowers it (Eq. 4). At c = 1 it is Soft-IntroVAE.

    The first seven attributes are those of `SoftIntroVAE`. From c_schedule on they are differences
    of the published code; none of these is in an equation, nor is squash.

    Attributes:
        beta_rec: weight of the reconstruction error, > 0.
        beta_kl: weight of KL(x), and of KL_s in the decoder phase, > 0.
        beta_neg: weight of KL_s in the encoder phase, > 0.
        alpha: α > 0, sharpness of the threshold.
        gamma_r: γ_r ≥ 0, weight of reconstructing the fakes.
        kl_annealing: share of the run over which β_kl rises.
        detach_fakes: False leaves out the sg of R(sg x_r) in the encoder phase, as published in
            code.
        kernel: of D, as in `as_distance`.
        bandwidth: h ≥ 0 of the kernel, as in `as_distance`; several give the mean of their D.
        estimator: of D, as in `as_distance`.
        pairing: D of generated images against "reconstructed" ones, as published in code, or
            against "real" ones (Eq. 3).
        squash: D of tanh(μ) and tanh(log λ), as published in code.
        distance_weight: multiplies D, whose scale is far below that of the KL divergence; 1 is the
            paper's form.
        c: fixed weight in [0, 1] (the supplement's ablation), or None for the annealed
            `annealing_weight`.
        c_schedule: of the annealed c, as in `annealing_weight`.
        distance_reduction: D of the encoder phase, a "mean" over pairs and latent axes or a "sum",
            which is B² n times it (B² times for every kernel but "mean"); the decoder phase has the
            mean.
        distance_weight_decoder: weight of D in the decoder phase, where D stands twice; None:
            distance_weight.
        squash_kl: in the decoder phase KL(x_s), too, is of the posterior with tanh(μ), tanh(log λ).
    """

    kernel: Literal["mean", "product", "prior", "tempered"] = "mean"
    bandwidth: float | tuple[float, ...] = 0.0
    estimator: Literal["v", "u"] = "v"
    pairing: Literal["reconstructed", "real"] = "reconstructed"
    squash: bool = False
    distance_weight: float = 1.0
    c: float | None = None
    c_schedule: Literal["linear", "tanh"] = "linear"
    distance_reduction: Literal["mean", "sum"] = "mean"
    distance_weight_decoder: float | None = None
    squash_kl: bool = False

    def weight(self, progress: float) -> float | Tensor:
        """Return c at this point of the run: the fixed one, or annealed (`annealing_weight`)."""
        return annealing_weight(progress, 1.0, self.c_schedule) if self.c is None else self.c

    def divergences(
        self, phase: str, q: Gaussian, q_r: Gaussian, q_g: Gaussian, progress: float
    ) -> tuple[Tensor, Tensor, Terms]:
        """Return KL_r and KL_g of Eq. 7, (B,) each, and D as a term.

        At c = 1 D has no part in them and is not evaluated. Arguments as in `SoftIntroVAE`.
        """
        c = self.weight(progress)
        squashes = self.squash_kl and phase == "decoder"
        p_r, p_g = (squashed(q_r), squashed(q_g)) if squashes else (q_r, q_g)
        if not isinstance(c, Tensor) and c == 1:
            return p_r.kl(), p_g.kl(), {}
        distance = self.distance(q, q_r, q_g, phase)
        kl_r = c * p_r.kl() + (1 - c) * distance
        kl_g = c * p_g.kl() + (1 - c) * distance
        return kl_r, kl_g, {"distance": distance}

    def distance(self, q: Gaussian, q_r: Gaussian, q_g: Gaussian, phase: str = "encoder") -> Tensor:
        """Return the weighted D of a phase, a scalar, over all processes.

        Args:
            q: posteriors of the real images, used where `pairing` is "real".
            q_r: posteriors of the reconstructed images, used where it is "reconstructed".
            q_g: posteriors of the generated images.
            phase: "encoder" or "decoder".
        """
        q_other = Gaussian(*gather(q_r if self.pairing == "reconstructed" else q))
        q_g = Gaussian(*gather(q_g))
        if self.squash:
            q_other, q_g = squashed(q_other), squashed(q_g)
        given = (q_other.mean, q_other.var, q_g.mean, q_g.var)
        distance = as_distance(*given, self.kernel, self.estimator, self.bandwidth)
        if phase == "decoder":
            return unless(self.distance_weight_decoder, self.distance_weight) * distance
        if self.distance_reduction == "sum":
            axes = q_g.mean.shape[1] if self.kernel == "mean" else 1
            distance = distance * len(q_g.mean) ** 2 * axes
        return self.distance_weight * distance


def squashed(q: Gaussian) -> Gaussian:
    """Return posteriors (B, n) with tanh of the means and of the log-variances."""
    return Gaussian(q.mean.tanh(), q.logvar.tanh())
