"""Checkpoints: one safetensors file with all tensors and, in its header, the rest as JSON.

Nothing is pickled.
"""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from asintrovae.config import ParameterError
from asintrovae.files import write_atomically

CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a number of iterations.

    Attributes:
        tensors: weights, moving averages and state of the optimisers, by the names of `collect`.
        meta: what JSON can hold: iteration, seconds, history, config and more, as `describe` makes
            it.
        path: the file it was read from.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path | None = None


def collect(
    model: nn.Module, optimizers: dict[str, Optimizer], averages: dict[str, nn.Module]
) -> dict[str, Tensor]:
    """Return the tensors of a run while it trains, on the CPU, as a checkpoint names them.

    Args:
        model: the networks.
        optimizers: one for each half of the model, by the half's name.
        averages: moving averages of halves, by name.

    Returns:
        model.<name>, average.<name> and optimizer.<half>.<parameter index>.<state name> -> tensor.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {
        f"average.{name}": tensor for name, tensor in nn.ModuleDict(averages).state_dict().items()
    }
    for half, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{half}.{index}.{name}": tensor for name, tensor in state.items()
            }
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizers: dict[str, Optimizer],
    averages: dict[str, nn.Module],
) -> None:
    """Put the tensors of a checkpoint back where `collect` took them from, to go on training."""
    model.load_state_dict(_below("model", checkpoint.tensors))
    nn.ModuleDict(averages).load_state_dict(_below("average", checkpoint.tensors))
    for half, optimizer in optimizers.items():
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below(f"optimizer.{half}", checkpoint.tensors).items():
            index, state_name = name.split(".", 1)
            states.setdefault(int(index), {})[state_name] = tensor
        optimizer.load_state_dict(
            {"state": states, "param_groups": optimizer.state_dict()["param_groups"]}
        )
        # The fused Adam goes through memory: its states need the order of their weight.
        for parameter, state in optimizer.state.items():
            for name, tensor in state.items():
                if tensor.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter).copy_(tensor)


def restore_evaluated(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Give a model the weights that are evaluated.

    Of a half with a moving average they are the averaged ones, else its own.
    """
    model.load_state_dict(
        _below("model", checkpoint.tensors) | _below("average", checkpoint.tensors)
    )


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, so that a crash at any point leaves it or the one before it whole.

    Two generations are kept.

    Raises:
        OSError: where it cannot be written; both generations before it are then as they were.
    """
    text = json.dumps(checkpoint.meta)
    metadata = {"json": text, "sha256": checksum(checkpoint.tensors, text)}
    write_atomically(
        run_dir / CURRENT, save(checkpoint.tensors, metadata), previous=run_dir / PREVIOUS
    )


def load_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the newest whole checkpoint of a run, on the CPU.

    Args:
        run_dir: the folder of the run.

    Returns:
        The checkpoint, None if the run has none yet. A warning says where the older of two is
        taken.

    Raises:
        ParameterError: naming the files, if there are some and none is whole.
    """
    problems: list[str] = []
    for path in (run_dir / CURRENT, run_dir / PREVIOUS):
        try:
            checkpoint = _read(path)
        except FileNotFoundError:
            continue
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path} is damaged ({error})")
        else:
            for problem in problems:
                back = f"going back to iteration {checkpoint.meta['iteration']}, before it"
                warnings.warn(f"{problem}; {back}", stacklevel=2)
            return checkpoint
    if problems:
        found = f"run_dir={str(run_dir)!r} holds no whole checkpoint: {' and '.join(problems)}"
        way_out = "put back a copy, or remove what is there to begin anew"
        raise ParameterError(f"{found}; {way_out}")
    return None


def make_current(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Put the checkpoint that was read in the place of a damaged newer one.

    Else the next one saved would make the damaged one the generation to fall back on.
    """
    if checkpoint.path is not None:
        os.replace(checkpoint.path, run_dir / CURRENT)


def checksum(tensors: dict[str, Tensor], text: str) -> str:
    """Return the SHA-256 of a text and of names, types, shapes and bytes of tensors on the CPU."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        # Copies: Windows cannot replace a file while tensors map it.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    text, saved = metadata["json"], metadata.get("sha256", "")
    if saved and saved != checksum(tensors, text):  # older ones have no checksum
        raise ValueError("its content does not fit its checksum")
    return Checkpoint(tensors, json.loads(text), path)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix + "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix + ".")
    }


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Return whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
