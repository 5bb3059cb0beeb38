"""Checkpoints: one safetensors file with all tensors and, in its header, the rest as JSON. No pickle anywhere."""

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
    """tensors: weights and optimiser state, by flat name. meta: JSON-able state (iteration, seconds, history, config).

    path: the file it was read from.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path | None = None


def collect(
    model: nn.Module, optimizers: dict[str, Optimizer], averages: dict[str, nn.Module]
) -> dict[str, Tensor]:
    """Flat tensors of a model, its optimisers and the moving averages of its halves, both by the half's name.

    Named model.<name>, average.<name> and optimizer.<half>.<parameter index>.<state name>.
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
        for (
            parameter,
            state,
        ) in (
            optimizer.state.items()
        ):  # fused Adam goes through memory: all in the weight's own order
            state |= {
                name: torch.empty_like(parameter).copy_(t)
                for name, t in state.items()
                if t.shape == parameter.shape
            }


def restore_evaluated(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Give a model the weights that are evaluated: the averaged ones of a half that has a moving average, else its own."""
    model.load_state_dict(
        _below("model", checkpoint.tensors) | _below("average", checkpoint.tensors)
    )


def save_checkpoint(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a crash at any point leaves this checkpoint or the one before it whole. Keeps two generations.

    Raises OSError where it cannot be written; both generations before it are then as they were.
    """
    text = json.dumps(checkpoint.meta)
    metadata = {"json": text, "sha256": checksum(checkpoint.tensors, text)}
    write_atomically(
        run_dir / CURRENT, save(checkpoint.tensors, metadata), previous=run_dir / PREVIOUS
    )


def load_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, on the CPU; None if it has none yet. Warns when it falls back to the older.

    Raises ParameterError, naming the files, if there are some and none is whole.
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
                warnings.warn(
                    f"{problem}; going back to iteration {checkpoint.meta['iteration']}, before it",
                    stacklevel=2,
                )
            return checkpoint
    if problems:
        way_out = "put back a copy, or remove what is there to begin anew"
        raise ParameterError(
            f"run_dir={str(run_dir)!r} holds no whole checkpoint: {' and '.join(problems)}; {way_out}"
        )
    return None


def make_current(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Put what was read in the place of a damaged newer one, before this takes its place as the generation to fall back on."""
    if checkpoint.path is not None:
        os.replace(checkpoint.path, run_dir / CURRENT)


def checksum(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 of a text, and of names, types, shapes and bytes of tensors on the CPU."""
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
    text = metadata["json"]
    if metadata.get("sha256", "") not in (
        "",
        checksum(tensors, text),
    ):  # "": written before there were checksums
        raise ValueError("its content does not fit its checksum")
    return Checkpoint(tensors, json.loads(text), path)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix + "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix + ".")
    }


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
