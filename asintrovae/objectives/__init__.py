"""The objectives of the book, in one shape: read two of the files side by side, the difference is the lesson."""

from asintrovae.objectives.as_intro import ASIntroVAE, annealing_weight
from asintrovae.objectives.base import Noise, Objective, Phase, Terms, reconstruction_error
from asintrovae.objectives.intro import IntroVAE
from asintrovae.objectives.soft_intro import SoftIntroVAE
from asintrovae.objectives.vae import VAE
from asintrovae.objectives.wgan_gp import WGANGP

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
    "annealing_weight",
    "reconstruction_error",
]
