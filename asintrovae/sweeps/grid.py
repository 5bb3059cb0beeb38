"""A grid of runs: a YAML file with axes, the points it stands for, and what has become of each."""

import ast
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asintrovae.config import (
    ParameterError,
    RunConfig,
    expand_home,
    short,
)

KEYS = ("notebook", "run_dir", "fixed", "axes", "seeds")


COLUMNS = (
    "seed",
    "status",
    "diverged_iteration",
    "diverged_term",
    "seconds",
    "code",
    "torch",
    "device",
)


TABLE = "table.csv"


LARGEST_FILE, LARGEST_GRID = 2**20, 10**5
"""Bytes of a YAML file and points of a grid beyond which it is refused."""


@contextmanager
def sweep_imports() -> Iterator[None]:
    """Around the imports that only a sweep needs."""
    try:
        yield
    except ImportError as error:
        raise ParameterError(
            f'{error}; a sweep needs more than training does: pip install "asintrovae[sweep]"'
        ) from None


@dataclass(frozen=True)
class Point:
    """One run of a grid. labels: axis -> label. Paths, and relative ones among the parameters, count from `folder`.

    parameters: what papermill sets, seed and run_dir included. defaults: of the notebook, for all the others.
    """

    labels: dict[str, str]
    seed: int
    folder: str
    notebook: str
    parameters: dict[str, Any]
    defaults: dict[str, Any]

    @property
    def name(self) -> str:
        """The labels and the seed, as the run's folder below that of the grid."""
        return "/".join([*self.labels.values(), str(self.seed)])

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        return Path(self.folder, self.parameters["run_dir"])

    @cached_property
    def config(self) -> RunConfig:
        """All parameters of the run. Raises ParameterError as RunConfig does."""
        return RunConfig(**{**self.defaults, **self.parameters})


def read_grid(
    path: Path, run_dir: Path | None = None, given: Mapping[str, Any] | None = None
) -> tuple[Path, list[Point]]:
    """The folder of all runs of a YAML file, and its points, checked, in order: the last axis and the seed fastest.

    run_dir: in place of the file's. given: parameters in place of those that `fixed` sets.
    Raises ParameterError, one line with the file, what is wrong in it and the way out.
    """
    path = Path(expand_home("grid", path))
    try:
        content, folder = load_yaml(path), path.resolve().parent
        base = expand_home("run_dir", content["run_dir"])
        if run_dir is not None:
            base = str(Path(expand_home("run_dir", run_dir)).resolve())
        notebook = expand_home("notebook", content["notebook"])
        points = expand(
            content, str(folder), notebook, base, notebook_defaults(folder / notebook), given or {}
        )
        return (folder / base).resolve(), points
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, by the safe loader, with the keys of a grid and no others."""
    with sweep_imports():
        import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses what YAML would take in silence: equal keys, of which the last wins, and nodes that stand for others."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: list[Any] = []
            for key, _ in node.value:
                if key.value in keys:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} twice; rename one", problem_mark=key.start_mark
                    )
                keys.append(key.value)
            return super().construct_mapping(node, deep)

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(
                yaml.AliasEvent
            ):  # a few lines of them can stand for billions of values
                event = self.peek_event()
                raise yaml.MarkedYAMLError(
                    problem=f"alias *{event.anchor}; write out what it is",
                    problem_mark=event.start_mark,
                )
            return super().compose_node(parent, index)

    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1).decode()
        if len(text) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes, which no grid needs")
        content = Loader(text).get_single_data()
    except Exception as error:  # values that are not what their tag says make the constructors raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ParameterError(f"cannot be read: {reason[:500]}") from None
    content = require_mapping("the file", content)
    require_known("key", content, KEYS)
    for key in ("notebook", "run_dir", "seeds"):
        if not content.get(key):
            raise ParameterError(
                f"key {key!r} is missing or empty; a grid needs notebook, run_dir and seeds"
            )
    for key in ("notebook", "run_dir"):
        if not isinstance(content[key], str):
            raise ParameterError(
                f"{key}={short(content[key])} must be text, a path that counts from the grid's folder"
            )
    return content


def require_mapping(what: str, value: Any) -> dict[str, Any]:
    """The value, if it is a mapping with text for keys."""
    if not isinstance(value, dict):
        raise ParameterError(f"{what} must be a mapping, name: value, got {short(value)}")
    for key in value:
        if not isinstance(key, str):
            raise ParameterError(f"{what}: {short(key)} must be text; put it in quotes")
    return value


def require_known(what: str, names: Iterable[str], valid: Iterable[str]) -> None:
    """Raise ParameterError with the nearest valid name if one is not among them."""
    valid = list(valid)
    for name in names:
        if name not in valid:
            near = difflib.get_close_matches(name[:100], valid, n=1, cutoff=0.0)
            raise ParameterError(f"unknown {what} {short(name)}; did you mean {near[0]!r}?")


def notebook_defaults(notebook: Path) -> dict[str, Any]:
    """Parameters of a training notebook with their defaults."""
    with sweep_imports():
        from papermill import inspect_notebook
    if not exists(notebook):
        raise ParameterError(
            f"notebook: no file {short(str(notebook))}; its path counts from the grid's folder"
        )
    try:
        return {
            name: ast.literal_eval(found["default"])
            for name, found in inspect_notebook(str(notebook)).items()
        }
    except Exception as error:  # what is no notebook fails in as many ways as there are files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ParameterError(
            f"notebook: the parameters of {str(notebook)!r} cannot be read ({reason[:200]}); name a training notebook"
        ) from None


def exists(path: Path) -> bool:
    """Whether there is a file; of a path that no file can have, too."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def expand(
    content: Mapping[str, Any],
    folder: str,
    notebook: str,
    base: str,
    defaults: dict[str, Any],
    given: Mapping[str, Any],
) -> list[Point]:
    """All points of a grid, in order; ParameterError for the first thing that does not fit.

    given: parameters in place of the fixed ones.
    """
    fixed = parameters_of("fixed", content.get("fixed") or {})
    axes = {
        axis: labels_of(axis, values)
        for axis, values in require_mapping("axes", content.get("axes") or {}).items()
    }
    check_twice(
        {"fixed": set(fixed)}
        | {f"axis {axis!r}": set().union(*found.values()) for axis, found in axes.items()}
    )
    for (axis, labels), name in itertools.product(axes.items(), given):
        if any(name in parameters for parameters in labels.values()):
            asked = f"-p {name} {short(given[name])}"
            raise ParameterError(
                f"{asked}: axis {axis!r} sets {name!r}; change it, or leave -p out"
            )
    fixed |= given
    seeds = checked_seeds(content["seeds"])
    if (count := math.prod(map(len, axes.values())) * len(seeds)) > LARGEST_GRID:
        raise ParameterError(
            f"the axes and seeds make {count} points, more than {LARGEST_GRID}; make several grids of it"
        )
    points = []
    for labels, seed in itertools.product(itertools.product(*axes.values()), seeds):
        chosen = dict(zip(axes, labels, strict=True))
        # as many workers as processors: more threads would wait for each other
        parameters = {
            "threads": 1,
            **fixed,
            "seed": seed,
            "run_dir": "/".join([base, *labels, str(seed)]),
        }
        for axis, label in chosen.items():
            parameters |= axes[axis][label]
        point = Point(chosen, seed, folder, notebook, parameters, defaults)
        try:
            point.config  # noqa: B018 (it is checked when it is made)
        except ParameterError as error:
            where = (
                ", ".join(f"axis {axis!r} at {label!r}" for axis, label in chosen.items())
                or f"seed {seed}"
            )
            raise ParameterError(f"{where}: {error}") from None
        points.append(point)
    return points


def labels_of(axis: str, values: Any) -> dict[str, dict[str, Any]]:
    """label -> parameters of one axis; a list of values is labelled by itself."""
    what = f"axis {short(axis)}"
    if not axis.isprintable() or not 0 < len(axis) <= 100:
        raise ParameterError(
            f"{what} must have a name of 1 to 100 printable characters, since it names a column; rename it"
        )
    if axis in COLUMNS:
        raise ParameterError(f"{what}: the table has a column of that name; rename the axis")
    if not values:
        raise ParameterError(
            f"{what} is empty; give it labels with parameters, or a list of values"
        )
    if isinstance(values, list):
        require_known(f"parameter of a list, {what},", [axis], RunConfig.model_fields)
        texts = [
            "-".join(map(str, value)) if isinstance(value, list) else str(value) for value in values
        ]
        pairs = [
            (f"{axis}={text}", {axis: value}) for text, value in zip(texts, values, strict=True)
        ]
    else:
        if not isinstance(values, dict):
            raise ParameterError(
                f"{what} must be a list of values, or a mapping, label: {{parameter: value}}, got {short(values)}"
            )
        pairs = list(require_mapping(what, values).items())
    labels: dict[str, dict[str, Any]] = {}
    for label, parameters in pairs:
        if not re.fullmatch(r"[\w=+-][\w=+.,-]{0,99}", label) or len(label.encode()) > 200:
            raise ParameterError(
                f"{what}: label {short(label)} names no plain folder; use letters, digits and - _ = + . ,"
            )
        if label.casefold().startswith(TABLE):
            raise ParameterError(f"{what}: label {label!r} is the name of the table; rename it")
        if label.casefold() in map(str.casefold, labels):
            raise ParameterError(
                f"{what}: label {label!r} stands there twice, and both would share a folder; rename one"
            )
        labels[label] = parameters_of(f"{what}, label {label!r}", parameters)
    return labels


def parameters_of(what: str, parameters: Any) -> dict[str, Any]:
    """The parameters that one place of a grid sets, if they exist and are its to set."""
    for name in require_mapping(what, parameters):
        if name in ("seed", "run_dir"):
            raise ParameterError(
                f"{what} sets {name!r}, which every point has its own of; leave it out"
            )
    require_known(f"parameter of {what},", parameters, RunConfig.model_fields)
    return dict(parameters)


PATHS = ("data_dir", "fid_weights")
"""Parameters that name a file or a folder; run_dir is every point's own."""


def given_parameters(pairs: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Return the parameters that the command line sets by -p NAME VALUE, the last of equal names.

    A value has the type that papermill's -p gives it: number, True, False, None or text; what begins
    with a bracket is read as YAML. A relative path counts from the present folder.
    Raises ParameterError for an unknown name, for seed and run_dir, and for YAML with an error.
    """
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name in ("seed", "run_dir"):
            way = "list them under seeds in the grid" if name == "seed" else "use --run-dir"
            raise ParameterError(f"-p {name} {short(text)}: every point has its own {name}; {way}")
        require_known("parameter", [name], RunConfig.model_fields)
        value = typed(name, text)
        if name in PATHS and isinstance(value, str):
            value = str(Path(value).expanduser().absolute())
        found[name] = value
    return found


def typed(name: str, text: str) -> Any:
    """Return the value that the text of -p NAME TEXT stands for."""
    constants = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    with sweep_imports():
        import yaml
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:200]
        asked = f"-p {name} {short(text)}"
        raise ParameterError(f"{asked}: cannot be read ({reason}); put text in quotes") from None
    return value if isinstance(value, (bool, list)) or value is None else text


def check_twice(places: dict[str, set[str]]) -> None:
    """Raise ParameterError if two places of a grid set one parameter."""
    owners: dict[str, str] = {}
    for place, names in places.items():
        for name in sorted(names):
            if name in owners:
                raise ParameterError(
                    f"{place} sets {name!r}, which {owners[name]} sets as well; leave it to one of them"
                )
            owners[name] = place


def checked_seeds(seeds: Any) -> list[int]:
    """The seeds, if they are different whole numbers from 0 on."""
    if (
        not isinstance(seeds, list)
        or any(type(seed) is not int or seed < 0 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ParameterError(
            f"seeds={short(seeds)} must be a list of different whole numbers from 0 on, such as [0, 1, 2]"
        )
    return seeds
