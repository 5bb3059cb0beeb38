"""The loop. It knows phases, data and checkpoints; it does not know which model it trains."""

import copy
import functools
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from asintrovae.build import build_objective
from asintrovae.checkpoint import (
    Checkpoint,
    all_finite,
    collect,
    load_checkpoint,
    make_current,
    restore,
    restore_evaluated,
    save_checkpoint,
)
from asintrovae.config import ParameterError, RunConfig, with_defaults
from asintrovae.data.decode import write_row
from asintrovae.data.files import code_hash
from asintrovae.interruption import Interruption, alone_in, interruptible
from asintrovae.networks import evaluating, precise_batchnorm
from asintrovae.objectives import VAE, Noise, Objective, Phase
from asintrovae.parallel import average_, fabric_for, largest, run_processes, share, world
from asintrovae.randomness import generator_for

# Parameters that may differ between the parts of one run: they say where and how often, not what is computed.
FREE_PARAMETERS = {
    *(
        "run_dir",
        "data_dir",
        "download",
        "strict_images",
        "workers",
        "device",
        "devices",
        "threads",
        "evaluation_samples",
        "feature_network",
        "fid_weights",
        "fid_precision",
        "log_every",
        "checkpoint_every",
    ),
}


AGREEMENT = 10
"""After how many iterations several processes ask each other whether one was told to stop; each time their devices wait."""


class Data(Protocol):
    """What the loop asks of a data set."""

    def batch(self, index: int) -> Tensor:
        """Batch number `index`, the same whenever it is asked for."""


@dataclass(frozen=True)
class Divergence:
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
    divergence: Divergence | None = None
    members: int = 1


def train(model: nn.Module, objective: Objective, data: Data, config: RunConfig) -> TrainingResult:
    """Train in place for config.iterations, from the checkpoint in config.run_dir if there is one.

    The first config.warmup_iterations() train a plain VAE where the model has an encoder and a decoder. Saves a
    checkpoint every config.checkpoint_every iterations and at the end; a term that is not finite stops the run there.
    The model is left as it is to be evaluated and as `load_run` reads it: with the statistics of `precise_batchnorm`,
    and where config.ema > 0 with the moving average of its decoder (generator), W̄ ← ema W̄ + (1 - ema) W after each of
    its steps, from the initial weights on. BatchNorm's buffers are not averaged: they are computed for the average.
    With config.devices > 1 as many processes train the run, each on its share of every batch; they build data, model and
    objective from config, and what is given here only takes the result.
    SIGINT and SIGTERM end it after the present iteration, of several processes after the next AGREEMENT at most, with a
    checkpoint, and then as `interruptible` says.
    Raises ParameterError if run_dir holds a run with other parameters, is being trained by another process, or cannot be
    written to; torch.OutOfMemoryError, naming the way out, where a batch does not fit. What was saved is kept in any case.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.devices > 1 and world()[1] == 1:
        return train_in_processes(model, objective, config)
    loop = Loop(model, objective, data, config)
    first = world()[0] == 0  # of several processes, it writes
    with alone_in([config.run_dir] * first), interruptible([config.run_dir]) as loop.interruption, naming_memory(config):
        loop.resume()
        model.train()
        loop.run(config.model)
    evaluated_weights(model, config)
    return loop.result


def train_in_processes(model: nn.Module, objective: Objective, config: RunConfig) -> TrainingResult:
    """Train config in config.devices processes and give the model what is to be evaluated.

    Raises ParameterError as `train`, and for an objective that config does not describe; RuntimeError if a process failed.
    The processes are then ended, those that still run too.
    """
    if repr(objective) != repr(build_objective(config)):
        raise ParameterError(f"devices={config.devices}: processes build {config.model!r} from the parameters, not {objective!r}")
    with alone_in([config.run_dir]):  # one line here is clearer than what a process says
        refuse_another_run(config, objective, load_checkpoint(Path(config.run_dir)))
    found = run_processes(config)
    evaluated_weights(model, config)
    divergence = found["divergence"] and Divergence(**found["divergence"])
    return TrainingResult(found["history"], found["seconds"], divergence)


def draw_steps(data: Data, config: RunConfig, phases: tuple[Phase, ...], i: int) -> Iterator[tuple[Phase, Tensor, Noise]]:
    """Every step of iteration i of a run with its batch and its noise, the latter on the CPU; a function of seed and i alone."""
    generator = generator_for(config.seed, "noise", i)
    most_steps = max(phase.steps for phase in phases)
    for phase in phases:
        for step in range(phase.steps):
            x = data.batch(i * most_steps + step)
            drawn = Noise.draw(len(x) * world()[1], config.latent_dim, generator)  # the same in every process
            yield phase, x, Noise(*map(share, drawn))


def every(done: int, step: int, total: int) -> bool:
    """Whether something that happens every `step` iterations, and at the end, is due after `done` of `total`."""
    return done % step == 0 or done == total


class Loop:
    """The state of a run while it trains: what a checkpoint holds, and what every iteration needs."""

    def __init__(self, model: nn.Module, objective: Objective, data: Data, config: RunConfig) -> None:
        self.model, self.objective, self.data, self.config = model, objective, data, config
        self.fabric = fabric_for(config)
        self.memory_format = torch.channels_last if config.channels_last else torch.preserve_format
        model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.called = compiled(model) if config.compile else model
        self.optimizers = build_optimizers(model, config)
        self.images_from = [name for name in ("decoder", "generator") if hasattr(model, name)]
        self.averages = {name: copy.deepcopy(getattr(model, name)) for name in self.images_from if config.ema}
        self.fixed_batch = functools.cache(data.batch)  # kept: out of order they cost a streamed data set a new start
        self.average = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
        self.warmup, self.warmup_end = VAE(config.beta_rec, config.beta_kl, config.kl_annealing), 0
        if {"encoder", "decoder"} <= self.optimizers.keys():
            self.warmup_end = config.warmup_iterations()
        self.start, self.result, self.watch = 0, TrainingResult(), FiniteWatch()
        self.run_dir, self.clock, self.interruption = Path(config.run_dir), time.monotonic(), Interruption()

    def run(self, name: str) -> None:
        """Iterate to the end, log and save when it is due; stops early where the run has diverged, or is to be interrupted."""
        start, total, silent = self.start, self.config.iterations, world()[0] > 0
        for i in tqdm(range(start, total), initial=start, total=total, desc=name, disable=silent):
            terms = self.iterate(i)
            self.watch.note(i, terms)
            log, save = (every(i + 1, step, total) for step in (self.config.log_every, self.config.checkpoint_every))
            agree = world()[1] == 1 or every(i + 1, AGREEMENT, total)
            if stop := agree and largest(
                self.interruption.signal, self.fabric.device
            ):  # all processes stop at the same iteration
                self.interruption.signal = stop
            if (log or save or stop) and self.diverged():
                break
            if log:
                self.log(i + 1, terms)
            if (save or stop) and (not self.save(i + 1) or stop):
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
            self.average(*(list(part.parameters()) for part in (self.averages[half], getattr(self.model, half))), None)
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
        refuse_another_run(self.config, self.objective, checkpoint, self.data)
        if checkpoint is None:
            self.save(0)
            return
        if checkpoint.meta["code"] != code_hash():
            warnings.warn(f"run_dir={str(self.run_dir)!r} was begun with another version of the code", stacklevel=3)
        if world()[0] == 0:
            make_current(self.run_dir, checkpoint)
        restore(checkpoint, self.model, self.optimizers, self.averages)
        self.start = checkpoint.meta["iteration"]
        self.result = TrainingResult(checkpoint.meta["history"], checkpoint.meta["seconds"])

    def log(self, done: int, terms: dict[str, Tensor]) -> None:
        """Add a row to the history; waits for the device."""
        self.result.history.append({"iteration": done} | {name: float(value) for name, value in terms.items()})

    def save(self, done: int) -> bool:
        """Save a checkpoint after `done` iterations; False, and no checkpoint, where the weights are not finite."""
        halves = dict(self.model.named_children()) | self.averages
        precise_batchnorm(halves, self.fixed_batch, self.config.latent_dim, self.config.seed)
        self.result.seconds += self.lap()
        tensors = collect(self.model, self.optimizers, self.averages)
        if not all_finite(tensors):  # a broken gradient shows in the weights before it shows in a term
            self.result.divergence = Divergence(done - 1, "weights")
            return False
        if world()[0] == 0:  # all processes hold the same
            save_checkpoint(
                self.run_dir, Checkpoint(tensors, describe(done, self.result, self.config, self.objective, self.data))
            )
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
        z = torch.randn(16, self.config.latent_dim, generator=generator_for(self.config.seed, "samples"))
        for name in self.images_from:
            half = self.averages.get(name, getattr(self.model, name))
            with evaluating(half):
                images = half(z.to(self.fabric.device))
            if images.dim() == 4:
                write_row(self.run_dir / "progress" / f"{done:07d}.png", images)

    def diverged(self) -> bool:
        """Whether a term has not been finite since the start; waits for the device."""
        self.result.divergence = self.watch.first()
        return self.result.divergence is not None


def describe(done: int, result: TrainingResult, config: RunConfig, objective: Objective, data: Data) -> dict[str, Any]:
    """What a checkpoint after `done` iterations says beside its tensors."""
    return {
        "iteration": done,
        "seconds": result.seconds,
        "history": result.history,
        "config": config.model_dump(mode="json"),
        "objective": repr(objective),
        "data": getattr(data, "fingerprint", ""),
        "code": code_hash(),
    }


def evaluated_weights(model: nn.Module, config: RunConfig) -> None:
    """Give the model what is to be evaluated of the last checkpoint; after training there is one, of iteration 0 at least."""
    if (checkpoint := load_checkpoint(Path(config.run_dir))) is not None:
        restore_evaluated(checkpoint, model)


def refuse_another_run(config: RunConfig, objective: Objective, checkpoint: Checkpoint | None, data: Data | None = None) -> None:
    """Raise ParameterError, listing the differences, if the checkpoint in run_dir is of a run with other parameters or data."""
    if checkpoint is None:
        return
    saved, wanted = with_defaults(checkpoint.meta["config"]), config.model_dump(mode="json")
    names = [name for name in wanted if name not in FREE_PARAMETERS and saved.get(name) != wanted[name]]
    saved["objective"], wanted["objective"] = checkpoint.meta["objective"], repr(objective)
    if not names and not same_objective(saved["objective"], objective):  # not built from the config
        names = ["objective"]
    if names:
        differences = ", ".join(f"{name} {saved.get(name)!r} there, {wanted[name]!r} here" for name in names)
        raise ParameterError(f"run_dir={config.run_dir!r} holds another run ({differences}); choose another run_dir")
    begun, here = checkpoint.meta.get("data", ""), getattr(data, "fingerprint", "")
    if begun and here and begun != here:
        raise ParameterError(
            f"data_dir={config.data_dir!r} holds other data than run_dir={config.run_dir!r} was begun with; "
            "give the data it was begun with, or choose another run_dir"
        )


def same_objective(saved: str, objective: Any) -> bool:
    """Return whether `saved` is the repr of an equal objective, perhaps one with fewer fields.

    The objective must have the defaults of the fields that `saved` lacks.
    """
    if not is_dataclass(objective):
        return saved == repr(objective)
    old = [field for field in fields(objective) if re.search(rf"\b{field.name}=", saved)]
    new = [field for field in fields(objective) if field not in old]
    values = ", ".join(f"{field.name}={getattr(objective, field.name)!r}" for field in old)
    unchanged = all(getattr(objective, field.name) == field.default for field in new)
    return unchanged and saved == f"{type(objective).__qualname__}({values})"


@contextmanager
def naming_memory(config: RunConfig) -> Iterator[None]:
    """Say which parameters decide whether a batch fits into the memory of a GPU, where it did not."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        asked = f"batch_size={config.batch_size} with precision={config.precision!r} does not fit ({str(error).splitlines()[0]})"
        way_out = "lower batch_size or use precision='bf16-mixed', in another run_dir, or more devices, also in this one"
        raise torch.OutOfMemoryError(f"{asked}; {way_out}") from None


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
    return {name: Adam(half.parameters(), config.learning_rate, config.adam_betas, fused=True) for name, half in halves}


def set_learning_rate(optimizers: dict[str, Optimizer], config: RunConfig, i: int) -> None:
    """Learning rate of iteration i: a tenth of the one before after each milestone passed. A function of i, so no state."""
    rate = config.learning_rate * 0.1 ** sum(i >= milestone for milestone in config.milestones)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate


class FiniteWatch:
    """Notes the first iteration at which each term was not finite, on the device, without waiting for it.

    Terms are scalars, or (M,) for the M members of an ensemble.
    """

    def __init__(self) -> None:
        self.iterations: dict[str, Tensor] = {}

    def note(self, i: int, terms: dict[str, Tensor]) -> None:
        """Look at the terms of iteration i."""
        key = "\n".join(terms)
        values = torch.stack([value.float().reshape(-1) for value in terms.values()])  # (terms, members)
        seen = self.iterations.get(key)
        if seen is None:
            seen = torch.full(values.shape, -1, device=values.device)
        self.iterations[key] = torch.where(~values.isfinite() & (seen < 0), i, seen)

    def first(self, member: int = 0) -> Divergence | None:
        """The earliest term that was not finite; within an iteration of the first phase, a term before the loss it is part of."""
        found = []
        for key, iterations in self.iterations.items():
            names = key.split("\n")
            phases = [name.split(".")[0] for name in names]
            for phase, name, iteration in zip(phases, names, iterations[:, member].tolist(), strict=True):
                if iteration >= 0:
                    found.append((iteration, phases.index(phase), name.endswith(".loss"), name))
        if not found:
            return None
        iteration, _, _, name = min(found)
        return Divergence(iteration, name)
