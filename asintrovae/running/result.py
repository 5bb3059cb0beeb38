"""What training returns, and the watch over values that are not finite."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class NonFinite:
    """The first value of a run that was not finite: its iteration (from 0) and its name, as in the history."""

    iteration: int
    term: str


@dataclass
class TrainingResult:
    """history: one row of term -> value per logged iteration. seconds: of training, over all parts of the run.

    divergence: None, or what stopped the run; the model then holds the last good checkpoint.
    members: how many runs were trained together in these seconds.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    divergence: NonFinite | None = None
    members: int = 1


class FiniteWatch:
    """Notes the first iteration at which each term was not finite, on the device, without waiting for it.

    Terms are scalars, or (M,) for the M members of an ensemble.
    """

    def __init__(self) -> None:
        self.iterations: dict[str, Tensor] = {}

    def note(self, i: int, terms: dict[str, Tensor]) -> None:
        """Look at the terms of iteration i."""
        key = "\n".join(terms)
        values = torch.stack(
            [value.float().reshape(-1) for value in terms.values()]
        )  # (terms, members)
        seen = self.iterations.get(key)
        if seen is None:
            seen = torch.full(values.shape, -1, device=values.device)
        self.iterations[key] = torch.where(~values.isfinite() & (seen < 0), i, seen)

    def first(self, member: int = 0) -> NonFinite | None:
        """The earliest term that was not finite; within an iteration of the first phase, a term before the loss it is part of."""
        found = []
        for key, iterations in self.iterations.items():
            names = key.split("\n")
            phases = [name.split(".")[0] for name in names]
            for phase, name, iteration in zip(
                phases, names, iterations[:, member].tolist(), strict=True
            ):
                if iteration >= 0:
                    found.append((iteration, phases.index(phase), name.endswith(".loss"), name))
        if not found:
            return None
        iteration, _, _, name = min(found)
        return NonFinite(iteration, name)
