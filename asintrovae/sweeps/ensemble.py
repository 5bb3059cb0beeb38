"""Many runs on points as one program: stacked weights, losses under torch.func.vmap, one Adam."""

import dataclasses
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.data import DataLoader, Dataset

from asintrovae.build import build_data, build_model, build_objective, threads_for, with_warmup
from asintrovae.config import DATASETS, MEMBER, ParameterError, RunConfig, marked
from asintrovae.data import Data
from asintrovae.data.image_files import leave_signals_to_the_run
from asintrovae.devices import computing_on
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
from asintrovae.running.loop import Draw, Loop, draw_steps
from asintrovae.running.provenance import FREE_PARAMETERS, check_another_run, describe
from asintrovae.running.records import save_record, save_samples
from asintrovae.running.result import NonFinite, TrainingResult
from asintrovae.running.signals import interruptible
from asintrovae.running.train import evaluated_weights, explain_out_of_memory
from asintrovae.sweeps.grid import Point
from asintrovae.theory.objectives import Noise, Objective, Phase, Terms, WithWarmup
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
    """Train runs on points together.

    Each leaves in its run_dir what `train` would leave, and can be resumed by either. A member sees
    the initial weights, batches and noise of its seed alone, so it repeats the single run up to
    rounding. Members interrupted at different iterations are trained in as many groups. A member
    that diverges stops there, the others go on. SIGINT and SIGTERM save all members and end the
    program, as in `train`.

    Args:
        configs: of the members. They may differ in MEMBER_PARAMETERS; device, precision, threads,
            log_every and checkpoint_every are those of the first.

    Returns:
        The results in the same order; their seconds are those of the whole program, their
        members its size.

    Raises:
        ParameterError: for runs that differ in more, for images, and as `train` for a run_dir.
    """
    configs = list(configs)
    check_misfits(configs)
    computing = computing_on(configs[0].torch_device(), configs[0].precision)
    with torch_threads(threads_for(configs[0])), computing:
        return train_together(configs)


def train_together(configs: Sequence[RunConfig]) -> list[TrainingResult]:
    """Train runs that fit together, as `train_ensemble` does."""
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
            ensemble = Ensemble([configs[k] for k in members])
            ensemble.loop.interruption = interruption
            ensemble.resume([checkpoints[k] for k in members])
            ensemble.run()
            results |= dict(zip(members, ensemble.results, strict=True))
            if interruption.stop_signal:
                break
    return [results[k] for k in range(len(configs))]


def run_ensemble(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Train, evaluate and record runs on points, as the training notebook does for one.

    Args:
        configs: of the members, as for `train_ensemble`.

    Returns:
        Their records in the same order.

    Raises:
        ParameterError: as `train_ensemble`.
    """
    records = []
    for config, result in zip(configs, train_ensemble(configs), strict=True):
        data = build_data(config)
        model = build_model(config, data.shape)
        evaluated_weights(model, config)
        records.append(save_record(config, result, evaluate(model, data, config)))
        save_samples(config, sample(model, config.evaluation_samples, config.seed))
    return records


def run_together(points: list[Point]) -> None:
    """Train the points of a grid as ensembles in this process, in as few as fit.

    Raises:
        ParameterError: for images.
    """
    groups: dict[Any, list[Point]] = {}
    for point in points:
        groups.setdefault((shape_of(point.config), point.folder), []).append(point)
    for (_, folder), members in groups.items():
        os.chdir(folder)  # relative paths among the parameters count from there
        configs = [point.config for point in members]
        check_misfits(configs)
        size = f"{len(members)} runs of {configs[0].iterations} iterations"
        print(f"{members[0].name} and {len(members) - 1} more: {size}", flush=True)
        run_ensemble(configs)


def check_misfits(configs: Sequence[RunConfig]) -> None:
    """Raise ParameterError, naming the parameter, where the runs cannot be one program."""
    if not configs:
        raise ParameterError("an ensemble needs at least one run, got none")
    folders = [config.run_dir for config in configs]
    if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
        raise ParameterError(f"run_dir={twice[0]!r} is asked for twice; every member needs its own")
    points = DATASETS["points"]
    for config in configs:
        if config.dataset not in points:
            why = f"an ensemble trains on {', '.join(points)}; use train"
            raise ParameterError(f"dataset={config.dataset!r}: {why}")
        if config.devices > 1:
            why = "an ensemble is one process; use devices=1, or train"
            raise ParameterError(f"devices={config.devices}: {why}")
        if config.compile:
            why = "an ensemble is not compiled; leave it out, or use train"
            raise ParameterError(f"compile=True: {why}")
        for (name, one), (_, other) in zip(shape_of(configs[0]), shape_of(config), strict=True):
            if one != other:
                why = "do not fit into one ensemble; train them apart"
                raise ParameterError(f"{name}: {one!r} and {other!r} {why}")


def stack(models: Sequence[nn.Module]) -> nn.Module:
    """Return a model whose parameters, (M, ...), hold those of all models; it cannot be called."""
    stacked = deepcopy(models[0])
    columns = zip(*(model.parameters() for model in models), strict=True)
    for parameter, members in zip(stacked.parameters(), columns, strict=True):
        parameter.data = torch.stack([member.detach() for member in members])
    return stacked


def member_of(tensors: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Return the checkpoint tensors of member k; Adam counts its steps once for all."""
    return {
        name: tensor.clone() if tensor.dim() == 0 else tensor[k].clone()
        for name, tensor in tensors.items()
    }


def stacked(members: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the checkpoint tensors of which `member_of` gives the members'."""
    return {
        name: tensor if tensor.dim() == 0 else torch.stack([member[name] for member in members])
        for name, tensor in members[0].items()
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
    """The objectives of all members as one: its loss is their sum, so each gets its own gradient.

    Attributes:
        objective: of the first member.
        weights: name -> (M,) of the fields in which the members differ. What all share stays a
            number: at c = 1, for one, D is then not evaluated.
    """

    def __init__(self, objectives: Sequence[Any], model: nn.Module) -> None:
        """Stack objectives.

        Args:
            objectives: of one class, differing in MEMBER_WEIGHTS only.
            model: one member, whose weights are not used.
        """
        self.objective, self.called = objectives[0], _Called(model)
        device = next(model.parameters()).device
        self.weights: dict[str, Tensor] = {}
        for field in dataclasses.fields(self.objective):
            column = [getattr(objective, field.name) for objective in objectives]
            if len(set(column)) > 1:
                self.weights[field.name] = torch.tensor(column, device=device)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of one member, each over the stack, x (M, B, 2) and noise (M, B, n)."""
        return tuple(
            dataclasses.replace(phase, loss=lambda *given, index=index: self.loss(index, *given))
            for index, phase in enumerate(self.objective.phases)
        )

    def loss(
        self, index: int, model: nn.Module, x: Tensor, noise: Noise, progress: float
    ) -> tuple[Tensor, Terms]:
        """Return the sum of the members' losses, and their losses and terms, (M,)."""

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


class StackedDraws(Dataset[list[Draw]]):
    """Batches and noise of all members by the number of the iteration, on the CPU.

    Attributes:
        datasets: of the members.
        configs: of the members.
        objective: of one member, with its warm-up.
    """

    def __init__(
        self, datasets: Sequence[Data], configs: Sequence[RunConfig], objective: WithWarmup
    ) -> None:
        self.datasets, self.configs, self.objective = datasets, configs, objective

    def __getitem__(self, i: int) -> list[Draw]:
        """Return x (M, B, 2) and noise (M, B, n) of every step of iteration i."""
        phases = self.objective.phases_at(i)
        members = zip(self.datasets, self.configs, strict=True)
        steps = zip(*(draw_steps(data, own, phases, i) for data, own in members), strict=True)
        columns = (zip(*step, strict=True) for step in steps)
        return [
            (torch.stack(xs), Noise(*map(torch.stack, zip(*noises, strict=True))))
            for xs, noises in columns
        ]

    def ahead(self, iterations: range, workers: int) -> "DataLoader[list[Draw]]":
        """Return a loader whose processes draw some iterations before they are asked for."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=iterations,
            num_workers=workers,
            worker_init_fn=leave_signals_to_the_run,
            prefetch_factor=8,
        )


class Ensemble:
    """Runs on points that one loop trains as a stack; each has its own history and checkpoints.

    Attributes:
        configs: of the members.
        loop: over the stack; it logs and saves by the methods of the ensemble.
        results: of the members.
    """

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        """Prepare runs, which must fit together, before their first iteration."""
        self.configs = list(configs)
        on_cpu = [config.model_copy(update={"device": "cpu"}) for config in configs]
        self.datasets = [build_data(config) for config in on_cpu]
        built = zip(configs, self.datasets, strict=True)
        models = [build_model(config, data.shape) for config, data in built]
        self.objectives: list[Objective] = [build_objective(config) for config in configs]
        given = zip(self.objectives, models, configs, strict=True)
        warmed_up = [with_warmup(*of_member) for of_member in given]
        objective = WithWarmup(
            StackedObjective(self.objectives, models[0]),
            StackedObjective([member.warmup for member in warmed_up], models[0]),
            warmed_up[0].iterations,
        )
        self.draws = StackedDraws(self.datasets, self.configs, warmed_up[0])
        self.loop = Loop(
            stack(models), objective, self.datasets[0], configs[0], self.draws.__getitem__
        )
        self.results = [TrainingResult(members=len(configs)) for _ in configs]

    def run(self) -> None:
        """Train to the end, or until the program is asked to stop or every member has diverged.

        Where a GPU would wait for the draws, which take longer for 30 members than its step, other
        processes draw ahead.
        """
        workers = self.configs[0].workers
        if workers is None:
            workers = min(8, processors()) if self.loop.fabric.device.type == "cuda" else 0
        if workers:
            iterations = range(self.loop.start, self.configs[0].iterations)
            ahead = iter(self.draws.ahead(iterations, workers))
            self.loop.draws = lambda _: next(ahead)
        self.loop.run(f"{self.configs[0].model} × {len(self.configs)}", self)

    def resume(self, checkpoints: Sequence[Checkpoint | None]) -> None:
        """Take up runs that stand at the same iteration, or save the untrained models.

        Args:
            checkpoints: of the members. Where one has none, all stand at iteration 0.

        Raises:
            ParameterError: if a run_dir holds a run with other parameters.
        """
        members = list(zip(self.configs, self.objectives, checkpoints, strict=True))
        for config, objective, checkpoint in members:
            check_another_run(config, objective, checkpoint)
        for config, _, checkpoint in members:
            if checkpoint is not None:
                make_current(Path(config.run_dir), checkpoint)
        begun = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
        if len(begun) < len(checkpoints):
            self.save(0)
            return
        loop, tensors = self.loop, stacked([checkpoint.tensors for checkpoint in begun])
        restore(Checkpoint(tensors, {}), loop.model, loop.optimizers, loop.averages)
        loop.start = begun[0].meta["iteration"]
        for result, saved in zip(self.results, begun, strict=True):
            result.history, result.seconds = saved.meta["history"], saved.meta["seconds"]

    def running(self) -> list[int]:
        """Return the numbers of the members that have not diverged."""
        return [k for k, result in enumerate(self.results) if result.divergence is None]

    def log(self, done: int, terms: Terms) -> None:
        """Add a row to the history of every running member; the device is waited for."""
        columns = {name: value.tolist() for name, value in terms.items()}
        for k in self.running():
            values = {name: column[k] for name, column in columns.items()}
            self.results[k].history.append({"iteration": done} | values)

    def save(self, done: int, at_once: bool = False) -> bool:
        """Save a checkpoint of every running member after `done` iterations.

        A member whose weights are not finite has diverged.

        Args:
            done: number of iterations.
            at_once: without meaning, since networks on points have no statistics.

        Returns:
            Whether a member is still running.
        """
        loop, seconds = self.loop, self.loop.lap()
        tensors = collect(loop.model, loop.optimizers, loop.averages)
        for k in self.running():
            config, result, own = self.configs[k], self.results[k], member_of(tensors, k)
            result.seconds += seconds
            if all_finite(own):
                meta = describe(done, result, config, self.objectives[k], self.datasets[k])
                save_checkpoint(Path(config.run_dir), Checkpoint(own, meta))
            else:
                result.divergence = NonFinite(done - 1, "weights")
        return bool(self.running())

    def diverged(self) -> bool:
        """Note the members with terms that are not finite; return whether that is every one."""
        for k in self.running():
            self.results[k].divergence = self.loop.watch.first(k)
        return not self.running()
