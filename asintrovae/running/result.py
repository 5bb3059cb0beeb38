"""What training returns, and the watch over values that are not finite."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class NonFinite:
    """The first value of a run that was not finite.

    Attributes:
        iteration: its iteration, from 0.
        term: its name, as in the history; "weights" for a weight or a state of the optimiser.
    """

    iteration: int
    term: str


@dataclass
class TrainingResult:
    """What `train` returns.

    Attributes:
        history: one row of term -> value for each logged iteration.
        seconds: of training, over all parts of the run.
        divergence: None, or what stopped the run; the model then holds the last good checkpoint.
        members: how many runs were trained together in these seconds.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    divergence: NonFinite | None = None
    members: int = 1


class FiniteWatch:
    """Notes the first iteration at which each term was not finite, without waiting for the device.

    Terms are scalars, or (M,) for the M members of an ensemble.

    Attributes:
        iterations: names of the terms of an iteration -> (terms, members), the first iteration at
            which each was not finite, -1 where there was none. A warm-up has other terms.
    """

    def __init__(self) -> None:
        self.iterations: dict[tuple[str, ...], Tensor] = {}

    def note(self, i: int, terms: dict[str, Tensor]) -> None:
        """Look at the terms of iteration i."""
        names = tuple(terms)
        values = torch.stack([value.float().reshape(-1) for value in terms.values()])
        seen = self.iterations.get(names)
        if seen is None:
            seen = torch.full(values.shape, -1, device=values.device)
        self.iterations[names] = torch.where(~values.isfinite() & (seen < 0), i, seen)

    def first(self, member: int = 0) -> NonFinite | None:
        """Return the earliest term that was not finite, None where there is none.

        Within an iteration it is one of the first phase, and a term comes before the loss that it
        is part of.
        """
        found = []
        for names, iterations in self.iterations.items():
            phases = [name.split(".")[0] for name in names]
            for name, phase, iteration in zip(
                names, phases, iterations[:, member].tolist(), strict=True
            ):
                if iteration >= 0:
                    found.append((iteration, phases.index(phase), name.endswith(".loss"), name))
        if not found:
            return None
        iteration, _, _, name = min(found)
        return NonFinite(iteration, name)
