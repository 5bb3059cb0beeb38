"""Train one run, in this process or in several."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from asintrovae.build import build_objective, threads_for
from asintrovae.collectives import world
from asintrovae.config import ParameterError, RunConfig
from asintrovae.data import Data
from asintrovae.devices import computing_on, has_bfloat16
from asintrovae.running.checkpoint import load_checkpoint, restore_evaluated
from asintrovae.running.lock import locked
from asintrovae.running.loop import Loop
from asintrovae.running.processes import run_processes
from asintrovae.running.provenance import check_another_run
from asintrovae.running.result import NonFinite, TrainingResult
from asintrovae.running.signals import interruptible
from asintrovae.theory.objectives import Objective
from asintrovae.threads import torch_threads


def train(model: nn.Module, objective: Objective, data: Data, config: RunConfig) -> TrainingResult:
    """Train a model in place, from the checkpoint in config.run_dir if there is one.

    The first config.warmup_iterations() train a plain VAE where the model has an encoder and a
    decoder. A checkpoint is saved every config.checkpoint_every iterations and at the end; a term
    that is not finite stops the run there. The run computes with `threads_for(config)` threads;
    torch's number is then what it was before.

    The model is left as it is to be evaluated and as `load_run` reads it: with the statistics of
    `precise_batchnorm`, and where config.ema > 0 with the moving average of its decoder
    (generator), W̄ ← ema W̄ + (1 - ema) W after each of its steps, from the initial weights on.
    BatchNorm's buffers are not averaged: they are computed for the average.

    With config.devices > 1 as many processes train the run, each on its share of every batch; they
    build data, model and objective from config, and what is given here only takes the result.

    SIGINT and SIGTERM end the run after the present iteration, of several processes after the next
    AGREEMENT at most, with a checkpoint, and then as `interruptible` says.

    Args:
        model: freshly initialised, as from `build_model`.
        objective: as from `build_objective`, or any object with `phases`.
        data: as from `build_data`.
        config: parameters of the run.

    Returns:
        History, seconds and divergence of the run, its parts before this call included.

    Raises:
        ParameterError: if run_dir holds a run with other parameters, is being trained by another
            process, or cannot be written to.
        torch.OutOfMemoryError: naming the way out, where a batch does not fit. What was saved is
            kept in any case.
    """
    if config.devices > 1 and world()[1] == 1:
        return train_in_processes(model, objective, config)
    computing = computing_on(config.torch_device(), config.precision)
    with torch_threads(threads_for(config)), computing:
        return train_here(model, objective, data, config)


def train_here(
    model: nn.Module, objective: Objective, data: Data, config: RunConfig
) -> TrainingResult:
    """Train as `train` does, in this process alone or as one of several."""
    loop = Loop(model, objective, data, config)
    first = world()[0] == 0  # of several processes, it writes
    with (
        locked([config.run_dir] * first),
        interruptible([config.run_dir]) as loop.interruption,
        explain_out_of_memory(config),
    ):
        loop.resume()
        model.train()
        loop.run(config.model)
    evaluated_weights(model, config)
    return loop.result


def train_in_processes(model: nn.Module, objective: Objective, config: RunConfig) -> TrainingResult:
    """Train a run in config.devices processes and give the model what is to be evaluated.

    If one fails, the others are ended.

    Raises:
        ParameterError: as `train`, and for an objective that config does not describe.
        RuntimeError: if a process failed.
    """
    if repr(objective) != repr(build_objective(config)):
        way = f"processes build {config.model!r} from the parameters"
        raise ParameterError(f"devices={config.devices}: {way}, not {objective!r}")
    with locked([config.run_dir]):  # one line here is clearer than what a process says
        check_another_run(config, objective, load_checkpoint(Path(config.run_dir)))
    found = run_processes(config, threads_for(config))
    evaluated_weights(model, config)
    divergence = found["divergence"] and NonFinite(**found["divergence"])
    return TrainingResult(found["history"], found["seconds"], divergence)


def evaluated_weights(model: nn.Module, config: RunConfig) -> None:
    """Give a model what is to be evaluated of the last checkpoint.

    After training there is one, of iteration 0 at least.
    """
    if (checkpoint := load_checkpoint(Path(config.run_dir))) is not None:
        restore_evaluated(checkpoint, model)


@contextmanager
def explain_out_of_memory(config: RunConfig) -> Iterator[None]:
    """Name the parameters that decide whether a batch fits into a GPU, where it did not."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        size = f"batch_size={config.batch_size} with precision={config.precision!r}"
        halves = config.precision != "bf16-mixed" and has_bfloat16(config.torch_device())
        smaller = "lower batch_size" + " or use precision='bf16-mixed'" * halves
        way_out = f"{smaller}, in another run_dir, or more devices, also in this one"
        message = f"{size} does not fit ({first}); {way_out}"
        raise torch.OutOfMemoryError(message) from None
