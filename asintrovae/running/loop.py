"""The training loop: phases, data and checkpoints of one run, for any model and objective."""

import copy
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from asintrovae.build import with_warmup
from asintrovae.collectives import average_, largest, share, world
from asintrovae.config import RunConfig
from asintrovae.data import Data
from asintrovae.data.image_files import write_row
from asintrovae.devices import moved
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
from asintrovae.theory.objectives import Noise, Objective, Phase

AGREEMENT = 10
"""Iterations after which several processes ask each other whether one was told to stop.

Their devices wait each time.
"""

Draw = tuple[Tensor, Noise]
"""A batch and its noise, of one step."""


def draw_steps(data: Data, config: RunConfig, phases: tuple[Phase, ...], i: int) -> Iterator[Draw]:
    """Yield batch and noise of every step of an iteration, functions of seed and iteration alone.

    Args:
        data: gives the batches, on its device.
        config: gives the seed and the size n of the latent space.
        phases: of the iteration. Phases of one step share a batch; a phase of several steps takes
            a fresh one for each.
        i: number of the iteration, from 0.

    Yields:
        Batch (B, ...) and noise (B, n), the noise on the CPU. Of several processes each gets its
        share of both.
    """
    generator = generator_for(config.seed, "noise", i)
    most_steps = max(phase.steps for phase in phases)
    batch = functools.cache(data.batch)
    for phase in phases:
        for step in range(phase.steps):
            x = batch(i * most_steps + step)
            everywhere = len(x) * world()[1]
            drawn = Noise.draw(everywhere, config.latent_dim, generator)  # the same in each process
            yield x, Noise(*map(share, drawn))


def every(done: int, step: int, total: int) -> bool:
    """Return whether something due every `step` iterations and at the end is due after `done`."""
    return done % step == 0 or done == total


class Keeper(Protocol):
    """What a loop calls to keep what it has computed: a Loop, or an ensemble of runs."""

    def log(self, done: int, terms: dict[str, Tensor]) -> None:
        """Add the terms of the iteration before `done` to the history."""

    def save(self, done: int, at_once: bool = False) -> bool:
        """Save a checkpoint after `done` iterations; return whether training can go on."""

    def diverged(self) -> bool:
        """Return whether training must stop because of terms that are not finite."""


class Loop:
    """The state of a run while it trains: what a checkpoint holds, and what an iteration needs.

    Attributes:
        model: the networks, trained in place.
        objective: what a checkpoint describes; `phases` gives those of an iteration.
        data: the data set.
        config: parameters of the run.
        optimizers: one Adam for each half of the model, by the half's name.
        averages: moving averages of halves, by name; empty where config.ema is 0.
        start: iterations that a checkpoint has taken the run to.
        result: history, seconds and divergence so far.
        interruption: of `interruptible`, looked at after every iteration.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        data: Data,
        config: RunConfig,
        draws: Callable[[int], Iterable[Draw]] | None = None,
    ) -> None:
        """Prepare a run before its first iteration.

        Args:
            model: freshly initialised, on the device of the run.
            objective: gets the warm-up of the run by `with_warmup`.
            data: the data set.
            config: parameters of the run.
            draws: batch and noise of each step of an iteration; by `draw_steps` if left out.
        """
        self.model, self.objective, self.data, self.config = model, objective, data, config
        self.phases = with_warmup(objective, model, config).phases_at
        self.draws = draws
        self.fabric = fabric_for(config)
        self.memory_format = torch.channels_last if config.channels_last else torch.preserve_format
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.called = compiled(model) if config.compile else model
        # Compiled code rounds where it reads.
        rounds = config.precision == "bf16-mixed" and not config.compile
        self.rounded = rounded_once if rounds else nullcontext
        self.optimizers = build_optimizers(model, config)
        self.images_from = [name for name in ("decoder", "generator") if hasattr(model, name)]
        averaged = self.images_from if config.ema else []
        self.averages = {name: copy.deepcopy(getattr(model, name)) for name in averaged}
        self.average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
        # Kept: out of order these batches cost a streamed data set a new start.
        self.fixed_batch = functools.cache(data.batch)
        self.start, self.result, self.watch = 0, TrainingResult(), FiniteWatch()
        self.run_dir, self.interruption = Path(config.run_dir), Interruption()
        self.clock = time.monotonic()

    def run(self, name: str, keeper: Keeper | None = None) -> None:
        """Iterate to the end, log and save when it is due.

        The loop stops early where the run has diverged or is to be interrupted; of several
        processes, all stop at the same iteration.

        Args:
            name: of the progress bar.
            keeper: logs and saves; the loop itself if left out.
        """
        keeper = keeper or self
        start, total, silent = self.start, self.config.iterations, world()[0] > 0
        for i in tqdm(range(start, total), initial=start, total=total, desc=name, disable=silent):
            terms = self.iterate(i)
            self.watch.note(i, terms)
            log = every(i + 1, self.config.log_every, total)
            save = every(i + 1, self.config.checkpoint_every, total)
            stop = self.stop_signal(i + 1)
            if (log or save or stop) and keeper.diverged():
                break
            if log:
                keeper.log(i + 1, terms)
            if (save or stop) and (not keeper.save(i + 1, at_once=bool(stop)) or stop):
                break

    def stop_signal(self, done: int) -> int:
        """Return the signal that asked any process to end, 0 for none or where none is asked."""
        if world()[1] > 1 and not every(done, AGREEMENT, self.config.iterations):
            return 0
        if stop := largest(self.interruption.stop_signal, self.fabric.device):
            self.interruption.stop_signal = stop
        return stop

    def iterate(self, i: int) -> dict[str, Tensor]:
        """Take the steps of iteration i, phase by phase.

        Returns:
            Loss and terms as <phase>.<term>, scalars still on the device; of a phase of several
            steps, those of the last.
        """
        set_learning_rate(self.optimizers, self.config, i)
        reported: dict[str, Tensor] = {}
        for phase, x, noise in self.draw(i):
            values = self.step(phase, x, noise, i / self.config.iterations)
            reported |= {f"{phase.name}.{name}": value for name, value in values.items()}
        return reported

    def draw(self, i: int) -> Iterator[tuple[Phase, Tensor, Noise]]:
        """Yield every step of iteration i with its batch and its noise, on the device."""
        phases = self.phases(i)
        steps = [phase for phase in phases for _ in range(phase.steps)]
        drawn = self.draws(i) if self.draws else draw_steps(self.data, self.config, phases, i)
        for phase, (x, noise) in zip(steps, drawn, strict=True):
            x = moved(x, self.fabric.device)
            yield phase, x.contiguous(memory_format=self.memory_format), noise.to(x.device)

    def step(self, phase: Phase, x: Tensor, noise: Noise, progress: float) -> dict[str, Tensor]:
        """Take one gradient step of the halves that learn in a phase.

        Args:
            phase: gives the loss and the halves.
            x: batch (B, ...).
            noise: of the same batch.
            progress: share of the run's iterations that is done, in [0, 1).

        Returns:
            The loss and its terms, detached.
        """
        learners = [self.optimizers[half] for half in phase.learns]
        with only_learning(self.model, phase.learns), self.rounded(self.model):
            with self.fabric.autocast():
                loss, terms = phase.loss(self.called, x, noise, progress)
            for optimizer in learners:
                optimizer.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
        values = self.exchange(phase, {"loss": loss, **terms})
        for optimizer in learners:
            optimizer.step()
        for half in self.averages.keys() & phase.learns:
            averaged = list(self.averages[half].parameters())
            self.average(averaged, list(getattr(self.model, half).parameters()), None)
        return values

    def exchange(self, phase: Phase, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give every process the mean of all processes' gradients and return the mean terms.

        DDP does the former for models that are called once in a step; an introspective loss calls
        each half several times.
        """
        parameters = (p for half in phase.learns for p in getattr(self.model, half).parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        values = {name: value.detach() for name, value in terms.items()}
        average_([*gradients, *values.values()])
        return values

    def resume(self) -> None:
        """Take up the run where its checkpoint left it, or save the untrained model as the first.

        Raises:
            ParameterError: if run_dir holds a run with other parameters, with the differences.
        """
        checkpoint = load_checkpoint(self.run_dir)
        self.fabric.barrier()  # nobody writes before all have looked
        check_another_run(self.config, self.objective, checkpoint, self.data)
        if checkpoint is None:
            self.save(0)
            return
        if checkpoint.meta["code"] != code_hash():
            begun = f"run_dir={str(self.run_dir)!r} was begun with another version of the code"
            warnings.warn(begun, stacklevel=3)
        if world()[0] == 0:
            make_current(self.run_dir, checkpoint)
        restore(checkpoint, self.model, self.optimizers, self.averages)
        self.start = checkpoint.meta["iteration"]
        self.result = TrainingResult(checkpoint.meta["history"], checkpoint.meta["seconds"])
        if checkpoint.meta.get("saved_at_once"):
            self.save(self.start)

    def log(self, done: int, terms: dict[str, Tensor]) -> None:
        """Add a row to the history after `done` iterations; the device is waited for."""
        values = {name: float(value) for name, value in terms.items()}
        self.result.history.append({"iteration": done} | values)

    def save(self, done: int, at_once: bool = False) -> bool:
        """Save a checkpoint after `done` iterations.

        Args:
            done: number of iterations.
            at_once: leave out what can be computed again when the run goes on, the statistics of
                BatchNorm and the sheet of samples, since who asked the run to end may wait for
                seconds only.

        Returns:
            Whether the weights are finite; others are not saved, and the run has diverged.
        """
        if not at_once:
            halves = dict(self.model.named_children()) | self.averages
            precise_batchnorm(halves, self.fixed_batch, self.config.latent_dim, self.config.seed)
        self.result.seconds += self.lap()
        tensors = collect(self.model, self.optimizers, self.averages)
        if not all_finite(tensors):  # the weights show a broken gradient before a term does
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
        """Return the seconds since the last call, at least 0: clocks have gone backwards."""
        now = time.monotonic()
        seconds, self.clock = max(0.0, now - self.clock), now
        return seconds

    def show_progress(self, done: int) -> None:
        """Write images of the same 16 prior samples to run_dir/progress; nothing for points.

        They are those of the evaluated model, with the moving average where there is one.
        """
        generator = generator_for(self.config.seed, "samples")
        z = torch.randn(16, self.config.latent_dim, generator=generator)
        for name in self.images_from:
            half = self.averages.get(name, getattr(self.model, name))
            with evaluating(half):
                images = half(z.to(self.fabric.device))
            if images.dim() == 4:
                write_row(self.run_dir / "progress" / f"{done:07d}.png", images.clamp(0, 1))

    def diverged(self) -> bool:
        """Return whether a term has not been finite since the start; the device is waited for."""
        self.result.divergence = self.watch.first()
        return self.result.divergence is not None


def compiled(model: nn.Module) -> nn.Module:
    """Return a model with the same weights and compiled halves.

    The given model stays as it is, for all that happens once in a checkpoint.
    """
    twin = copy.copy(model)
    halves = {name: torch.compile(half) for name, half in model.named_children()}
    twin._modules = halves  # type: ignore[assignment]
    return twin


@contextmanager
def only_learning(model: nn.Module, learns: tuple[str, ...]) -> Iterator[None]:
    """Freeze every parameter outside the named halves.

    Gradients still flow through the frozen halves to their inputs. Parameters that were frozen
    before stay so.

    Args:
        model: whose children are the halves.
        learns: names of the halves that learn.
    """
    learning = {id(parameter) for half in learns for parameter in getattr(model, half).parameters()}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in learning]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


@contextmanager
def rounded_once(model: nn.Module) -> Iterator[None]:
    """Round the weights of frozen layers to bfloat16 meanwhile.

    Autocast keeps the rounded weights of a half that learns, and rounds those of a frozen one again
    in every call. The numbers are the same.
    """
    layers = (m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    weights = (p for layer in layers for p in layer.parameters(recurse=False))
    exact = {p: p.data for p in weights if not p.requires_grad}
    for parameter, values in exact.items():
        parameter.data = values.bfloat16()
    try:
        yield
    finally:
        for parameter, values in exact.items():
            parameter.data = values


def build_optimizers(model: nn.Module, config: RunConfig) -> dict[str, Optimizer]:
    """Return one Adam for each half of the model, so that a phase moves its own half only.

    Args:
        model: whose children are the halves.
        config: gives the learning rate and Adam's betas.

    Returns:
        half -> optimiser. It is fused: it passes once over each weight with all that belongs to
        it, on a CPU and on a GPU, where the plain one passes a dozen times.
    """
    rate, betas = config.learning_rate, config.adam_betas
    halves = model.named_children()
    return {name: Adam(half.parameters(), rate, betas, fused=True) for name, half in halves}


def set_learning_rate(optimizers: dict[str, Optimizer], config: RunConfig, i: int) -> None:
    """Set the learning rate of iteration i, a tenth of the last after each milestone passed.

    It is a function of i, so that a checkpoint has no state of it.
    """
    rate = config.learning_rate * 0.1 ** sum(i >= milestone for milestone in config.milestones)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
