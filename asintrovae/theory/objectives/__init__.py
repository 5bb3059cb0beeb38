"""The objectives of the book, in one shape: read two of the files side by side, the difference is the lesson."""

from asintrovae.theory.objectives.as_intro import ASIntroVAE, annealing_weight
from asintrovae.theory.objectives.base import (
    Noise,
    Objective,
    Phase,
    Terms,
    WithWarmup,
    phases_at,
    reconstruction_error,
)
from asintrovae.theory.objectives.intro import IntroVAE
from asintrovae.theory.objectives.soft_intro import SoftIntroVAE
from asintrovae.theory.objectives.vae import VAE
from asintrovae.theory.objectives.wgan_gp import WGANGP

__all__ = [
    "VAE",
    "WGANGP",
    "ASIntroVAE",
    "IntroVAE",
    "Noise",
    "Objective",
    "Phase",
    "SoftIntroVAE",
    "Terms",
    "WithWarmup",
    "annealing_weight",
    "phases_at",
    "reconstruction_error",
]
