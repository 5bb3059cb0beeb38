"""Which code, which parameters and which versions a run was made with."""

import ast
import dataclasses
import hashlib
import json
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import torch

import asintrovae
from asintrovae.config import (
    FREE,
    ParameterError,
    RunConfig,
    differences,
    marked,
    with_defaults,
)
from asintrovae.data import Data
from asintrovae.files import PACKAGE
from asintrovae.running.checkpoint import Checkpoint
from asintrovae.running.result import TrainingResult
from asintrovae.theory.objectives import Objective

NUMBERS = (
    "theory",
    "data",
    "evaluation/measures.py",
    "evaluation/evaluate.py",
    "evaluation/features.py",
    "running/loop.py",
    "sweeps/ensemble.py",
    "build.py",
    "config.py",
    "randomness.py",
    "collectives.py",
    "devices.py",
    "ranges.py",
)
"""Files and folders of the package whose code can change a number of a run."""


@cache
def code_hash() -> str:
    """Return the SHA-256 of the code that can change a number of a run, from NUMBERS.

    Docstrings, comments and layout do not count, so that a run can be compared with one that was
    made before a text changed.
    """
    digest = hashlib.sha256()
    for path in sorted(path for name in NUMBERS for path in (PACKAGE / name).rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{meaning(path)}\0".encode())
    for name in sorted(name for name in NUMBERS if name.endswith(".py")):
        digest.update(f"{name}\0{meaning(PACKAGE / name)}\0".encode())
    return digest.hexdigest()


def meaning(path: Path) -> str:
    """Return the syntax tree of a file as text, without docstrings and other bare strings."""
    return _as_text(ast.parse(path.read_bytes()))


def _as_text(node: Any) -> str:
    """Return a syntax tree as text that does not depend on the version of Python."""
    if isinstance(node, list):
        return f"[{','.join(_as_text(part) for part in node if not _is_text(part))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    omitted = ("ctx", "kind", "type_comment", "type_params")
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in omitted)
    given = (
        f"{name}={_as_text(value)}" for name, value in fields if value is not None and value != []
    )
    return f"{type(node).__name__}({','.join(given)})"


def _is_text(node: Any) -> bool:
    """Return whether a statement is nothing but a string."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def versions() -> dict[str, str]:
    """Return the versions of what computes the numbers."""
    return {
        "python": platform.python_version(),
        "asintrovae": asintrovae.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


FREE_PARAMETERS = set(marked(FREE))
"""Parameters that may differ between the parts of one run."""


def describe(
    done: int, result: TrainingResult, config: RunConfig, objective: Objective, data: Data
) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors.

    Args:
        done: number of iterations.
        result: gives seconds and history so far.
        config: parameters of the run.
        objective: without its warm-up, which follows from config.
        data: its fingerprint, if it has one, tells later whether the run goes on with the same
            data.
    """
    return {
        "iteration": done,
        "seconds": result.seconds,
        "history": result.history,
        "config": config.model_dump(mode="json"),
        "objective": described(objective),
        "data": getattr(data, "fingerprint", ""),
        "code": code_hash(),
    }


def described(objective: Objective) -> dict[str, Any]:
    """Return the class of an objective as "objective" and fields as "objective.<name>", as JSON."""
    values = {
        f"objective.{field.name}": getattr(objective, field.name) for field in fields_of(objective)
    }
    plain: dict[str, Any] = json.loads(
        json.dumps({"objective": type(objective).__qualname__, **values}, default=repr)
    )
    return plain


def saved_objective(saved: str | dict[str, Any], objective: Objective) -> dict[str, Any]:
    """Return what a checkpoint says of its objective in the form of `described`.

    Args:
        saved: of the checkpoint; older ones hold the repr.
        objective: gives the defaults of the fields that did not exist when it was saved.
    """
    defaults = {
        f"objective.{field.name}": field.default
        for field in fields_of(objective)
        if field.default is not dataclasses.MISSING
    }
    return defaults | (from_repr(saved) if isinstance(saved, str) else saved)


def fields_of(objective: Objective) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields of an objective; none where it is no dataclass."""
    return dataclasses.fields(objective) if dataclasses.is_dataclass(objective) else ()


def from_repr(text: str) -> dict[str, Any]:
    """Return the repr of a dataclass in the form of `described`; another text as the class."""
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call)
        values = {
            f"objective.{keyword.arg}": ast.literal_eval(keyword.value) for keyword in call.keywords
        }
        return {"objective": ast.unparse(call.func), **values}
    except (SyntaxError, ValueError, AssertionError):
        return {"objective": text}


def check_another_run(
    config: RunConfig,
    objective: Objective,
    checkpoint: Checkpoint | None,
    data: Data | None = None,
) -> None:
    """Raise ParameterError if a checkpoint is of another run than the one that is to go on from it.

    Args:
        config: of the run that is to go on. FREE_PARAMETERS may differ.
        objective: of the run; it need not be the one that config describes.
        checkpoint: in its folder, None if there is none.
        data: of the run; left out, it is not compared.

    Raises:
        ParameterError: with the differences in parameters or objective, or for other data.
    """
    if checkpoint is None:
        return
    saved, wanted = with_defaults(checkpoint.meta["config"]), config.model_dump(mode="json")
    found = differences(saved, wanted, FREE_PARAMETERS)
    if not found:  # an objective need not be built from the config
        found = differences(
            saved_objective(checkpoint.meta["objective"], objective), described(objective)
        )
    if found:
        where = f"run_dir={config.run_dir!r} holds another run ({found})"
        raise ParameterError(f"{where}; choose another run_dir")
    begun, here = checkpoint.meta.get("data", ""), getattr(data, "fingerprint", "")
    if begun and here and begun != here:
        other = f"data_dir={config.data_dir!r} holds other data"
        way_out = "give the data it was begun with, or choose another run_dir"
        begun_with = f"than run_dir={config.run_dir!r} was begun with"
        raise ParameterError(f"{other} {begun_with}; {way_out}")
