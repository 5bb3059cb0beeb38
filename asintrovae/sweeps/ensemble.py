"""Many runs on points as one program: their weights stacked, their losses under torch.func.vmap, one Adam for all."""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from asintrovae.build import build_data, build_model, build_objective, threads_for
from asintrovae.config import DATASETS, MEMBER, ParameterError, RunConfig, marked
from asintrovae.data.image_files import leave_signals_to_the_run
from asintrovae.evaluation.evaluate import evaluate, sample
from asintrovae.running.checkpoint import (
    Checkpoint,
    all_finite,
    collect,
    load_checkpoint,
    make_current,
    restore,
    save_checkpoint,
)
from asintrovae.running.lock import locked
from asintrovae.running.loop import Loop, draw_steps
from asintrovae.running.provenance import FREE_PARAMETERS, check_another_run, describe
from asintrovae.running.records import save_record, save_samples
from asintrovae.running.result import NonFinite, TrainingResult
from asintrovae.running.signals import interruptible
from asintrovae.running.train import evaluated_weights, explain_out_of_memory
from asintrovae.sweeps.grid import Point
from asintrovae.theory.objectives import VAE, Noise, Objective, Phase, Terms
from asintrovae.threads import processors, torch_threads

MEMBER_PARAMETERS = {*marked(MEMBER), *FREE_PARAMETERS}
"""Parameters in which the members of an ensemble may differ; the rest is one program's shape."""
MEMBER_WEIGHTS = tuple(name for name in marked(MEMBER) if name not in ("dataset", "seed"))
"""Those that become (M,) tensors."""
OPTIONAL_WEIGHTS = tuple(
    name for name in MEMBER_WEIGHTS if RunConfig.model_fields[name].default is None
)
"""Those that may be None: all members have a number or none has."""


def shape_of(config: RunConfig) -> tuple[Any, ...]:
    """Return what the members of one ensemble share, as pairs of a name and a value.

    It is every parameter outside MEMBER_PARAMETERS, and which of OPTIONAL_WEIGHTS are None.
    """
    shared = {
        name: value for name, value in config.model_dump().items() if name not in MEMBER_PARAMETERS
    }
    missing = ((f"{name} is None", getattr(config, name) is None) for name in OPTIONAL_WEIGHTS)
    return (*shared.items(), *missing, ("warmup", config.warmup_iterations()))


def train_ensemble(configs: Sequence[RunConfig]) -> list[TrainingResult]:
    """Train runs on points together; each leaves in its run_dir what `train` would leave, and can be resumed by either.

    A member sees the initial weights, batches and noise of its seed alone, so it repeats the single run up to rounding.
    Members may differ in MEMBER_PARAMETERS; device, precision, threads, log_every and checkpoint_every are those of the
    first. Members interrupted at different iterations are trained in as many groups. A member that diverges stops there,
    the others go on. TrainingResult.seconds is the time of the whole program, TrainingResult.members its size.
    SIGINT and SIGTERM save all members and end the program, as in `train`.
    Raises ParameterError for runs that differ in more, for images, and as `train` for a run_dir.
    """
    configs = list(configs)
    check_misfits(configs)
    with torch_threads(threads_for(configs[0])):
        return train_together(configs)


def train_together(configs: Sequence[RunConfig]) -> list[TrainingResult]:
    """What `train_ensemble` does for runs that fit together."""
    run_dirs = [config.run_dir for config in configs]
    results: dict[int, TrainingResult] = {}
    with (
        locked(run_dirs),
        interruptible(run_dirs) as interruption,
        explain_out_of_memory(configs[0]),
    ):
        checkpoints = [load_checkpoint(Path(run_dir)) for run_dir in run_dirs]
        begun = [checkpoint.meta["iteration"] if checkpoint else 0 for checkpoint in checkpoints]
        for start in sorted(set(begun)):
            members = [k for k, iteration in enumerate(begun) if iteration == start]
            loop = EnsembleLoop([configs[k] for k in members])
            loop.interruption = interruption
            loop.resume_from([checkpoints[k] for k in members])
            loop.prefetch()
            loop.run(f"{loop.config.model} × {len(members)}")
            results |= dict(zip(members, loop.results, strict=True))
            if interruption.stop_signal:
                break
    return [results[k] for k in range(len(configs))]


def run_ensemble(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Train, evaluate and record runs on points, as the training notebook does for one; returns their records.

    Raises ParameterError as `train_ensemble`.
    """
    records = []
    for config, result in zip(configs, train_ensemble(configs), strict=True):
        data = build_data(config)
        model = build_model(config, data.shape)
        evaluated_weights(model, config)
        records.append(save_record(config, result, evaluate(model, data, config)))
        save_samples(config, sample(model, config.evaluation_samples, config.seed))
    return records


def check_misfits(configs: Sequence[RunConfig]) -> None:
    """Raise ParameterError, naming the parameter, where the runs cannot be one program."""
    if not configs:
        raise ParameterError("an ensemble needs at least one run, got none")
    folders = [config.run_dir for config in configs]
    if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
        raise ParameterError(f"run_dir={twice[0]!r} is asked for twice; every member needs its own")
    first = configs[0]
    for config in configs:
        if config.dataset not in DATASETS["points"]:
            raise ParameterError(
                f"dataset={config.dataset!r}: an ensemble trains on {', '.join(DATASETS['points'])}; use train"
            )
        if config.devices > 1:
            raise ParameterError(
                f"devices={config.devices}: an ensemble is one process; use devices=1, or train"
            )
        if config.compile:
            raise ParameterError(
                "compile=True: an ensemble is not compiled; leave it out, or use train"
            )
        for (name, one), (_, other) in zip(shape_of(first), shape_of(config), strict=True):
            if one != other:
                raise ParameterError(
                    f"{name}: {one!r} and {other!r} do not fit into one ensemble; train them apart"
                )


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """A model whose parameters hold those of all models along a new first axis, (M, ...), by the same names; not to be called."""
    stacked = deepcopy(models[0])
    for parameter, *members in zip(
        stacked.parameters(), *(model.parameters() for model in models), strict=True
    ):
        parameter.data = torch.stack([member.detach() for member in members])
    return stacked


def member_of(tensors: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Checkpoint tensors of member k; Adam counts its steps once for all."""
    return {
        name: tensor.clone() if tensor.dim() == 0 else tensor[k].clone()
        for name, tensor in tensors.items()
    }


def stacked(checkpoints: Sequence[Checkpoint]) -> dict[str, Tensor]:
    """The tensors of which `member_of` gives the members'."""
    first = checkpoints[0].tensors
    return {
        name: tensor
        if tensor.dim() == 0
        else torch.stack([checkpoint.tensors[name] for checkpoint in checkpoints])
        for name, tensor in first.items()
    }


class _Called(nn.Module):
    """A loss of a model as a module's forward, which is what functional_call calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, phase: Phase, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        return phase.loss(self.model, x, noise, progress)


class StackedObjective:
    """The objectives of all members as one: the loss is their sum, so that each member gets its own gradient.

    objectives: of one class, differing in MEMBER_WEIGHTS only. model: one member, whose weights are not used.
    """

    def __init__(self, objectives: Sequence[Any], model: nn.Module) -> None:
        self.objective, self.called = objectives[0], _Called(model)
        columns = {
            field.name: [getattr(o, field.name) for o in objectives]
            for field in dataclasses.fields(self.objective)
        }
        device = next(model.parameters()).device
        # What all share stays a number: at c = 1, for one, D is then not evaluated.
        self.weights = {
            name: torch.tensor(c, device=device) for name, c in columns.items() if len(set(c)) > 1
        }

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of one member, each over the whole stack: (stack, x (M, B, ...), noise (M, B, n), progress)."""
        return tuple(
            dataclasses.replace(phase, loss=lambda *given, index=index: self.loss(index, *given))
            for index, phase in enumerate(self.objective.phases)
        )

    def loss(
        self, index: int, model: nn.Module, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Sum of the members' losses, and their losses and terms, (M,)."""

        def of_member(
            parameters: dict[str, Tensor], weights: dict[str, Tensor], x: Tensor, noise: Noise
        ) -> Terms:
            phase = dataclasses.replace(self.objective, **weights).phases[index]
            value, terms = functional_call(self.called, parameters, (phase, x, noise, progress))
            return {"loss": value, **terms}

        parameters: dict[str, Tensor] = {
            f"model.{name}": parameter for name, parameter in model.named_parameters()
        }
        terms: Terms = vmap(of_member)(parameters, self.weights, x, noise)
        return terms["loss"].sum(), terms


class EnsembleLoop(Loop):
    """The loop of `train` over a stack of models; what it saves and logs it saves and logs for each member."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        self.configs = list(configs)
        self.datasets = [
            build_data(config.model_copy(update={"device": "cpu"})) for config in configs
        ]
        self.objectives: list[Objective] = [build_objective(config) for config in configs]
        models = [
            build_model(config, data.shape)
            for config, data in zip(configs, self.datasets, strict=True)
        ]
        objective = StackedObjective(self.objectives, models[0])
        super().__init__(stack(models), objective, self.datasets[0], self.configs[0])
        self.warmup = StackedObjective(
            [VAE(config.beta_rec, config.beta_kl, config.kl_annealing) for config in configs],
            models[0],
        )  # type: ignore[assignment]
        self.results = [TrainingResult(members=len(configs)) for _ in configs]
        self.prefetched: Iterator[list[tuple[Tensor, Noise]]] | None = None

    @property
    def running(self) -> list[int]:
        """Numbers of the members that have not diverged."""
        return [k for k, result in enumerate(self.results) if result.divergence is None]

    def draw(self, i: int) -> Iterator[tuple[Phase, Tensor, Noise]]:
        """Every step of iteration i with the batches (M, B, 2) and the noise (M, B, n) of all members, on the device."""
        steps = next(self.prefetched) if self.prefetched else self[i]
        phases = (phase for phase in self.phases(i) for _ in range(phase.steps))
        for phase, (x, noise) in zip(phases, steps, strict=True):
            yield phase, x.to(self.fabric.device, non_blocking=True), noise.to(self.fabric.device)

    def __getitem__(self, i: int) -> list[tuple[Tensor, Noise]]:
        """Batch and noise of every step of iteration i, all members stacked, on the CPU; what a DataLoader asks for."""
        phases = self.phases(i)
        members = (
            draw_steps(data, config, phases, i)
            for data, config in zip(self.datasets, self.configs, strict=True)
        )
        columns = (tuple(zip(*steps, strict=True)) for steps in zip(*members, strict=True))
        return [
            (torch.stack(xs), Noise(*map(torch.stack, zip(*noises, strict=True))))
            for _, xs, noises in columns
        ]

    def prefetch(self) -> None:
        """Let other processes draw ahead where a GPU would wait for it: drawing for 30 members takes longer than its step."""
        workers = self.config.workers
        if workers is None:
            workers = min(8, processors()) if self.fabric.device.type == "cuda" else 0
        if workers:
            iterations, ahead = (
                range(self.start, self.config.iterations),
                cast("Dataset[Any]", self),
            )
            apart: dict[str, Any] = {
                "num_workers": workers,
                "worker_init_fn": leave_signals_to_the_run,
                "prefetch_factor": 8,
            }
            loader = DataLoader(ahead, batch_size=None, sampler=iterations, **apart)
            self.prefetched = iter(loader)

    def resume_from(self, checkpoints: Sequence[Checkpoint | None]) -> None:
        """Take up runs that stand at the same iteration, or save the untrained models as their first checkpoints."""
        for config, objective, checkpoint in zip(
            self.configs, self.objectives, checkpoints, strict=True
        ):
            check_another_run(config, objective, checkpoint)
        for config, checkpoint in zip(self.configs, checkpoints, strict=True):
            if checkpoint is not None:
                make_current(Path(config.run_dir), checkpoint)
        begun = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
        if len(begun) == len(checkpoints):
            restore(Checkpoint(stacked(begun), {}), self.model, self.optimizers, self.averages)
            self.start = begun[0].meta["iteration"]
            for result, saved in zip(self.results, begun, strict=True):
                result.history, result.seconds = saved.meta["history"], saved.meta["seconds"]
        else:
            self.save(0)

    def log(self, done: int, terms: Terms) -> None:
        """Add a row to the history of every running member; waits for the device."""
        columns = {name: value.tolist() for name, value in terms.items()}
        for k in self.running:
            self.results[k].history.append(
                {"iteration": done} | {name: column[k] for name, column in columns.items()}
            )

    def save(self, done: int, at_once: bool = False) -> bool:
        """Save a checkpoint of every running member after `done` iterations.

        A member whose weights are not finite has diverged. at_once: without meaning here, since
        networks on points have no statistics.
        """
        seconds = self.lap()
        tensors = collect(self.model, self.optimizers, self.averages)
        for k in self.running:
            config, result, own = self.configs[k], self.results[k], member_of(tensors, k)
            result.seconds += seconds
            if all_finite(own):
                meta = describe(done, result, config, self.objectives[k], self.datasets[k])
                save_checkpoint(Path(config.run_dir), Checkpoint(own, meta))
            else:
                result.divergence = NonFinite(done - 1, "weights")
        return bool(self.running)

    def diverged(self) -> bool:
        """Note what has diverged; whether every member has."""
        for k in self.running:
            self.results[k].divergence = self.watch.first(k)
        return not self.running


@dataclass(frozen=True)
class Cost:
    """What an ensemble will take. flop: of the matrix products of all members and iterations. seconds: of wall clock."""

    members: int
    iterations: int
    flop: float
    seconds: float

    def __str__(self) -> str:
        each = self.flop / self.members / self.iterations
        time = f"{self.seconds / 60:.0f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        return (
            f"{self.members} runs of {self.iterations} iterations of {each / 1e9:.2g} GFLOP, "
            f"{self.flop / 1e12:.3g} TFLOP in all, about {time} at this machine's present speed"
        )


def cost(configs: Sequence[RunConfig], probes: int = 5) -> Cost:
    """Arithmetic and time of an ensemble, from `probes` iterations spread over the run, each done twice; nothing is saved."""
    loop, total = EnsembleLoop(configs), configs[0].iterations
    flop, seconds = 0.0, 0.0
    for i in (int((probe + 0.5) * total / probes) for probe in range(probes)):
        with FlopCounterMode(display=False) as counter:
            loop.iterate(i)
        flop += counter.get_total_flops() * total / probes
        started = time.monotonic()
        values = loop.iterate(i)
        next(iter(values.values())).tolist()  # waits for the device
        seconds += (time.monotonic() - started) * total / probes
    return Cost(len(configs), total, flop, seconds)


def run_together(points: list[Point]) -> None:
    """Train points as ensembles, in this process, each group announced with what it will cost; ParameterError for images."""
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault((shape_of(point.config), point.folder), []).append(point)
    for (_, folder), members in groups.items():
        os.chdir(folder)  # relative paths among the parameters count from there
        configs = [point.config for point in members]
        check_misfits(configs)
        print(f"{members[0].name} and {len(members) - 1} more: {cost(configs)}", flush=True)
        run_ensemble(configs)
