"""Randomness that depends on its purpose and on the iteration, never on what was drawn before."""

import numpy as np
import torch

PURPOSES = ("init", "data", "noise", "evaluation", "samples", "statistics")


def generator_for(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator whose stream is a function of (seed, purpose, index) alone.

    A run that resumes at iteration i, one process of several and one member of an ensemble
    therefore see the draws of the uninterrupted single run.

    Args:
        seed: of the run, ≥ 0.
        purpose: one of PURPOSES.
        index: number of the iteration or of the batch, ≥ 0.

    Raises:
        ValueError: for another purpose and for negative integers.
    """
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), index])
    word = sequence.generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))
