"""Randomness that depends on what it is for and on the iteration, never on what was drawn before."""

import numpy as np
import torch

PURPOSES = ("init", "data", "noise", "evaluation", "samples", "statistics")


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """CPU generator whose stream is a function of (seed, purpose, index) alone.

    A run that resumes at iteration i, one process of several and one member of an ensemble therefore see the draws of
    the uninterrupted single run. seed, index: integers ≥ 0. purpose: one of PURPOSES.
    """
    words = np.random.SeedSequence([seed, PURPOSES.index(purpose), index]).generate_state(
        1, np.uint64
    )
    return torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
