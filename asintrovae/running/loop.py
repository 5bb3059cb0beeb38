"""The loop. It knows phases, data and checkpoints; it does not know which model it trains."""

import copy
import functools
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from asintrovae.collectives import average_, largest, share, world
from asintrovae.config import RunConfig
from asintrovae.data import Data
from asintrovae.data.image_files import write_row
from asintrovae.randomness import generator_for
from asintrovae.running.checkpoint import (
    Checkpoint,
    all_finite,
    collect,
    load_checkpoint,
    make_current,
    restore,
    save_checkpoint,
)
from asintrovae.running.processes import fabric_for
from asintrovae.running.provenance import check_another_run, code_hash, describe
from asintrovae.running.result import FiniteWatch, NonFinite, TrainingResult
from asintrovae.running.signals import Interruption
from asintrovae.theory.batchnorm import evaluating, precise_batchnorm
from asintrovae.theory.objectives import VAE, Noise, Objective, Phase

AGREEMENT = 10
"""After how many iterations several processes ask each other whether one was told to stop; each time their devices wait."""


def draw_steps(
    data: Data, config: RunConfig, phases: tuple[Phase, ...], i: int
) -> Iterator[tuple[Phase, Tensor, Noise]]:
    """Every step of iteration i of a run with its batch and its noise, the latter on the CPU; a function of seed and i alone."""
    generator = generator_for(config.seed, "noise", i)
    most_steps = max(phase.steps for phase in phases)
    for phase in phases:
        for step in range(phase.steps):
            x = data.batch(i * most_steps + step)
            drawn = Noise.draw(
                len(x) * world()[1], config.latent_dim, generator
            )  # the same in every process
            yield phase, x, Noise(*map(share, drawn))


def every(done: int, step: int, total: int) -> bool:
    """Whether something that happens every `step` iterations, and at the end, is due after `done` of `total`."""
    return done % step == 0 or done == total


class Loop:
    """The state of a run while it trains: what a checkpoint holds, and what every iteration needs."""

    def __init__(
        self, model: nn.Module, objective: Objective, data: Data, config: RunConfig
    ) -> None:
        self.model, self.objective, self.data, self.config = model, objective, data, config
        self.fabric = fabric_for(config)
        self.memory_format = torch.channels_last if config.channels_last else torch.preserve_format
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.called = compiled(model) if config.compile else model
        self.optimizers = build_optimizers(model, config)
        self.images_from = [name for name in ("decoder", "generator") if hasattr(model, name)]
        self.averages = {
            name: copy.deepcopy(getattr(model, name)) for name in self.images_from if config.ema
        }
        self.fixed_batch = functools.cache(
            data.batch
        )  # kept: out of order they cost a streamed data set a new start
        self.average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
        self.warmup, self.warmup_end = VAE(config.beta_rec, config.beta_kl, config.kl_annealing), 0
        if {"encoder", "decoder"} <= self.optimizers.keys():
            self.warmup_end = config.warmup_iterations()
        self.start, self.result, self.watch = 0, TrainingResult(), FiniteWatch()
        self.run_dir, self.clock, self.interruption = (
            Path(config.run_dir),
            time.monotonic(),
            Interruption(),
        )

    def run(self, name: str) -> None:
        """Iterate to the end, log and save when it is due; stops early where the run has diverged, or is to be interrupted."""
        start, total, silent = self.start, self.config.iterations, world()[0] > 0
        for i in tqdm(range(start, total), initial=start, total=total, desc=name, disable=silent):
            terms = self.iterate(i)
            self.watch.note(i, terms)
            log, save = (
                every(i + 1, step, total)
                for step in (self.config.log_every, self.config.checkpoint_every)
            )
            agree = world()[1] == 1 or every(i + 1, AGREEMENT, total)
            if stop := agree and largest(
                self.interruption.stop_signal, self.fabric.device
            ):  # all processes stop at the same iteration
                self.interruption.stop_signal = stop
            if (log or save or stop) and self.diverged():
                break
            if log:
                self.log(i + 1, terms)
            if (save or stop) and (not self.save(i + 1, at_once=bool(stop)) or stop):
                break

    def iterate(self, i: int) -> dict[str, Tensor]:
        """Iteration i: every phase in order. Returns loss and terms as <phase>.<term>, scalars still on the device.

        Phases of one step share the batch of iteration i; a phase of several steps takes fresh ones.
        """
        set_learning_rate(self.optimizers, self.config, i)
        reported: dict[str, Tensor] = {}
        for phase, x, noise in self.draw(i):
            values = self.step(phase, x, noise, i / self.config.iterations)
            reported |= {f"{phase.name}.{name}": value for name, value in values.items()}
        return reported

    def phases(self, i: int) -> tuple[Phase, ...]:
        """The phases of iteration i: of the warm-up, then of the objective."""
        return (self.warmup if i < self.warmup_end else self.objective).phases

    def draw(self, i: int) -> Iterator[tuple[Phase, Tensor, Noise]]:
        """Every step of iteration i with its batch and its noise, on the device of the run."""
        for phase, x, noise in draw_steps(self.data, self.config, self.phases(i), i):
            yield phase, x.contiguous(memory_format=self.memory_format), noise.to(x.device)

    def step(self, phase: Phase, x: Tensor, noise: Noise, progress: float) -> dict[str, Tensor]:
        """One gradient step of the half that learns in this phase. Returns its loss and terms, detached."""
        learners = [self.optimizers[half] for half in phase.learns]
        with only_learning(self.model, phase.learns):
            with self.fabric.autocast():
                loss, terms = phase.loss(self.called, x, noise, progress)
            for optimizer in learners:
                optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
        values = self.exchange(phase, {"loss": loss, **terms})
        for optimizer in learners:
            optimizer.step()
        for half in self.averages.keys() & phase.learns:
            self.average(
                *(
                    list(part.parameters())
                    for part in (self.averages[half], getattr(self.model, half))
                ),
                None,
            )
        return values

    def exchange(self, phase: Phase, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give every process the mean of all processes' gradients; returns the means of the terms, detached.

        DDP does the former for models that are called once per step; an introspective loss calls each half several times.
        """
        parameters = (p for half in phase.learns for p in getattr(self.model, half).parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        values = {name: value.detach() for name, value in terms.items()}
        average_([*gradients, *values.values()])
        return values

    def resume(self) -> None:
        """Take up the run where its checkpoint left it, or save the untrained model as the first one.

        Raises ParameterError, listing the differences, if run_dir holds a run with other parameters.
        """
        checkpoint = load_checkpoint(self.run_dir)
        self.fabric.barrier()  # nobody writes before all have looked
        check_another_run(self.config, self.objective, checkpoint, self.data)
        if checkpoint is None:
            self.save(0)
            return
        if checkpoint.meta["code"] != code_hash():
            warnings.warn(
                f"run_dir={str(self.run_dir)!r} was begun with another version of the code",
                stacklevel=3,
            )
        if world()[0] == 0:
            make_current(self.run_dir, checkpoint)
        restore(checkpoint, self.model, self.optimizers, self.averages)
        self.start = checkpoint.meta["iteration"]
        self.result = TrainingResult(checkpoint.meta["history"], checkpoint.meta["seconds"])
        if checkpoint.meta.get("saved_at_once"):
            self.save(self.start)

    def log(self, done: int, terms: dict[str, Tensor]) -> None:
        """Add a row to the history; waits for the device."""
        self.result.history.append(
            {"iteration": done} | {name: float(value) for name, value in terms.items()}
        )

    def save(self, done: int, at_once: bool = False) -> bool:
        """Save a checkpoint after `done` iterations; False where the weights are not finite.

        at_once: leave out what can be computed again when the run goes on, the statistics of
            BatchNorm and the sheet of samples, since who asked the run to end may wait for seconds
            only.
        """
        if not at_once:
            halves = dict(self.model.named_children()) | self.averages
            precise_batchnorm(halves, self.fixed_batch, self.config.latent_dim, self.config.seed)
        self.result.seconds += self.lap()
        tensors = collect(self.model, self.optimizers, self.averages)
        if not all_finite(
            tensors
        ):  # a broken gradient shows in the weights before it shows in a term
            self.result.divergence = NonFinite(done - 1, "weights")
            return False
        if world()[0] == 0:  # all processes hold the same
            meta = describe(done, self.result, self.config, self.objective, self.data)
            save_checkpoint(self.run_dir, Checkpoint(tensors, {**meta, "saved_at_once": at_once}))
            if not at_once:
                self.show_progress(done)
        self.fabric.barrier()
        return True

    def lap(self) -> float:
        """Seconds since this was last asked, never below 0: clocks have gone backwards."""
        now = time.monotonic()
        seconds, self.clock = max(0.0, now - self.clock), now
        return seconds

    def show_progress(self, done: int) -> None:
        """Write what the evaluated model makes of the same 16 prior samples to run_dir/progress; nothing for points."""
        z = torch.randn(
            16, self.config.latent_dim, generator=generator_for(self.config.seed, "samples")
        )
        for name in self.images_from:
            half = self.averages.get(name, getattr(self.model, name))
            with evaluating(half):
                images = half(z.to(self.fabric.device))
            if images.dim() == 4:
                write_row(self.run_dir / "progress" / f"{done:07d}.png", images.clamp(0, 1))

    def diverged(self) -> bool:
        """Whether a term has not been finite since the start; waits for the device."""
        self.result.divergence = self.watch.first()
        return self.result.divergence is not None


def compiled(model: nn.Module) -> nn.Module:
    """The same weights behind compiled halves; the model itself stays as it is, for all that happens once per checkpoint."""
    twin = copy.copy(model)
    twin._modules = {name: torch.compile(half) for name, half in model.named_children()}  # type: ignore[misc]
    return twin


@contextmanager
def only_learning(model: nn.Module, learns: tuple[str, ...]) -> Iterator[None]:
    """Freeze every parameter outside the named halves; gradients still flow through the frozen ones to their inputs."""
    learning = {id(parameter) for half in learns for parameter in getattr(model, half).parameters()}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in learning]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def build_optimizers(model: nn.Module, config: RunConfig) -> dict[str, Optimizer]:
    """One Adam per half of the model, by the half's name, so that a phase moves its own half only.

    fused: one pass over each weight with all that belongs to it instead of a dozen, on a CPU and on a GPU.
    """
    halves = model.named_children()
    return {
        name: Adam(half.parameters(), config.learning_rate, config.adam_betas, fused=True)
        for name, half in halves
    }


def set_learning_rate(optimizers: dict[str, Optimizer], config: RunConfig, i: int) -> None:
    """Learning rate of iteration i: a tenth of the one before after each milestone passed. A function of i, so no state."""
    rate = config.learning_rate * 0.1 ** sum(i >= milestone for milestone in config.milestones)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
