"""A grid of runs: a YAML file with axes, and the points that it stands for."""

import ast
import difflib
import itertools
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from asintrovae.config import ParameterError, RunConfig, expand_home, short

KEYS = ("notebook", "run_dir", "fixed", "axes", "seeds")
"""Keys of the YAML file."""

DIVERGED = ("diverged_iteration", "diverged_term")
COLUMNS = ("seed", "status", *DIVERGED, "seconds", "code", "torch", "device")
"""Columns of the table between the axes and the metrics."""

TABLE = "table.csv"
"""Name of the table in the folder of the grid's runs."""

PATHS = ("data_dir", "fid_weights")
"""Parameters that name a file or a folder; run_dir is every point's own."""

LARGEST_FILE, LARGEST_GRID = 2**20, 10**5
"""Bytes of a YAML file and points of a grid beyond which it is refused."""


@contextmanager
def sweep_imports() -> Iterator[None]:
    """Say how to install a package that only a sweep needs, where it is missing."""
    try:
        yield
    except ImportError as error:
        way_out = 'a sweep needs more than training does: pip install "asintrovae[sweep]"'
        raise ParameterError(f"{error}; {way_out}") from None


@dataclass(frozen=True)
class Point:
    """One run of a grid.

    Attributes:
        labels: axis -> label.
        seed: of the run.
        folder: of the grid's file; paths, and relative ones among the parameters, count from it.
        notebook: path of the training notebook.
        parameters: what papermill sets, seed and run_dir included.
        defaults: of the notebook, for all the other parameters.
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
        """All parameters of the run; ParameterError as RunConfig raises it."""
        return RunConfig(**{**self.defaults, **self.parameters})


def read_grid(
    path: Path, run_dir: Path | None = None, given: Mapping[str, Any] | None = None
) -> tuple[Path, list[Point]]:
    """Return the folder of all runs of a YAML file, and its points.

    Args:
        path: the file; `~` is the home folder.
        run_dir: in place of the file's; a relative one counts from the present folder.
        given: parameters in place of those that `fixed` sets.

    Returns:
        The folder, and the points, checked, in order: the last axis and the seed change fastest.

    Raises:
        ParameterError: in one line, with the file, what is wrong in it and the way out.
    """
    path = Path(expand_home("grid", path))
    try:
        content, folder = load_yaml(path), path.resolve().parent
        base = expand_home("run_dir", content["run_dir"])
        if run_dir is not None:
            base = str(Path(expand_home("run_dir", run_dir)).resolve())
        notebook = expand_home("notebook", content["notebook"])
        defaults = notebook_defaults(folder / notebook)
        points = expand(content, str(folder), notebook, base, defaults, given)
        return (folder / base).resolve(), points
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, by the safe loader, with the keys of a grid alone."""
    with sweep_imports():
        import yaml

    def refused(problem: str, mark: Any) -> Exception:
        error: Exception = yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses equal keys, of which YAML takes the last, and nodes that stand for others."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in keys:
                    raise refused(f"{key.value!r} twice; rename one", key.start_mark)
                keys.add(str(key.value))
            return super().construct_mapping(node, deep)

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # a few can stand for billions of values
                event = self.peek_event()
                raise refused(f"alias *{event.anchor}; write out what it is", event.start_mark)
            return super().compose_node(parent, index)

    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1).decode()
        if len(text) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes, which no grid needs")
        content = Loader(text).get_single_data()
        repr(content)  # fails for an integer of thousands of digits, which can name no folder
    except Exception as error:  # nearly any: a value need not be what its tag says
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ParameterError(f"cannot be read: {reason[:500]}") from None
    content = require_mapping("the file", content)
    require_known("key", content, KEYS)
    for key in ("notebook", "run_dir", "seeds"):
        if not content.get(key):
            needs = "a grid needs notebook, run_dir and seeds"
            raise ParameterError(f"key {key!r} is missing or empty; {needs}")
    for key in ("notebook", "run_dir"):
        if not isinstance(content[key], str):
            needs = "must be text, a path that counts from the grid's folder"
            raise ParameterError(f"{key}={short(content[key])} {needs}")
    return content


def require_mapping(what: str, value: Any) -> dict[str, Any]:
    """Return the value, if it is a mapping with text for keys."""
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
    """Return the parameters of a training notebook with their defaults."""
    with sweep_imports():
        from papermill import inspect_notebook
    if not os.path.isfile(notebook):  # False for what can be no path, too
        missing = f"no file {short(str(notebook))}"
        raise ParameterError(f"notebook: {missing}; its path counts from the grid's folder")
    try:
        parameters = inspect_notebook(str(notebook)).items()
        return {name: ast.literal_eval(found["default"]) for name, found in parameters}
    except Exception as error:  # what is no notebook fails in as many ways as there are files
        reason = " ".join(str(error).split()) or type(error).__name__
        unread = f"the parameters of {str(notebook)!r} cannot be read ({reason[:200]})"
        raise ParameterError(f"notebook: {unread}; name a training notebook") from None


def expand(
    content: Mapping[str, Any],
    folder: str,
    notebook: str,
    base: str,
    defaults: dict[str, Any],
    given: Mapping[str, Any] | None = None,
) -> list[Point]:
    """Return all points of a grid, in order.

    Args:
        content: seeds, and if it has them axes and fixed parameters, as in the YAML file.
        folder: from which paths count.
        notebook: path of the training notebook.
        base: folder of all runs.
        defaults: parameters of the notebook.
        given: parameters in place of the fixed ones.

    Raises:
        ParameterError: for the first thing that does not fit.
    """
    given = given or {}
    fixed = parameters_of("fixed", content.get("fixed") or {})
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    owners = dict.fromkeys(fixed, "fixed")
    for axis, values in require_mapping("axes", content.get("axes") or {}).items():
        axes[axis], where = labels_of(axis, values), f"axis {axis!r}"
        for name in sorted(set().union(*axes[axis].values())):
            if owners.setdefault(name, where) != where:
                twice = f"{where} sets {name!r}, which {owners[name]} sets as well"
                raise ParameterError(f"{twice}; leave it to one of them")
            if name in given:
                asked = f"-p {name} {short(given[name])}: {where} sets {name!r}"
                raise ParameterError(f"{asked}; change it, or leave -p out")
    seeds = checked_seeds(content["seeds"])
    if (count := math.prod(map(len, axes.values())) * len(seeds)) > LARGEST_GRID:
        made = f"the axes and seeds make {count} points, more than {LARGEST_GRID}"
        raise ParameterError(f"{made}; make several grids of it")
    points = []
    for labels, seed in itertools.product(itertools.product(*axes.values()), seeds):
        chosen = dict(zip(axes, labels, strict=True))
        own = {"seed": seed, "run_dir": "/".join([base, *labels, str(seed)])}
        # As many workers run as there are processors: more threads would wait for each other.
        parameters = {"threads": 1, **fixed, **given, **own}
        for axis, label in chosen.items():
            parameters |= axes[axis][label]
        point = Point(chosen, seed, folder, notebook, parameters, defaults)
        try:
            point.config  # noqa: B018 (it is checked when it is made)
        except ParameterError as error:
            places = [f"axis {axis!r} at {label!r}" for axis, label in chosen.items()]
            where = ", ".join(places) or f"seed {seed}"
            raise ParameterError(f"{where}: {error}") from None
        points.append(point)
    return points


def labels_of(axis: str, values: Any) -> dict[str, dict[str, Any]]:
    """Return label -> parameters of one axis; values of a list are their own labels."""
    what = f"axis {short(axis)}"
    if not axis.isprintable() or not 0 < len(axis) <= 100:
        needs = "must have a name of 1 to 100 printable characters, since it names a column"
        raise ParameterError(f"{what} {needs}; rename it")
    if axis in COLUMNS:
        raise ParameterError(f"{what}: the table has a column of that name; rename the axis")
    if not values:
        way_out = "give it labels with parameters, or a list of values"
        raise ParameterError(f"{what} is empty; {way_out}")
    if isinstance(values, list):
        require_known(f"parameter of a list, {what},", [axis], RunConfig.model_fields)
        texts = ["-".join(map(str, v)) if isinstance(v, list) else str(v) for v in values]
        named = zip(texts, values, strict=True)
        pairs = [(f"{axis}={text}", {axis: value}) for text, value in named]
    elif isinstance(values, dict):
        pairs = list(require_mapping(what, values).items())
    else:
        needs = "must be a list of values, or a mapping, label: {parameter: value}"
        raise ParameterError(f"{what} {needs}, got {short(values)}")
    taken: set[str] = set()
    for label, _ in pairs:
        check_label(what, label, taken)
        taken.add(label.casefold())
    return {label: parameters_of(f"{what}, label {label!r}", own) for label, own in pairs}


def check_label(what: str, label: str, taken: Collection[str]) -> None:
    """Raise ParameterError for a label that cannot name the folder of its runs."""
    if not re.fullmatch(r"[\w=+-][\w=+.,-]{0,99}", label) or len(label.encode()) > 200:
        unfit = f"label {short(label)} names no plain folder"
        raise ParameterError(f"{what}: {unfit}; use letters, digits and - _ = + . ,")
    if label.casefold().startswith(TABLE):
        raise ParameterError(f"{what}: label {label!r} is the name of the table; rename it")
    if label.casefold() in taken:
        twice = f"label {label!r} stands there twice, and both would share a folder"
        raise ParameterError(f"{what}: {twice}; rename one")


def parameters_of(what: str, parameters: Any) -> dict[str, Any]:
    """Return the parameters that one place of a grid sets, if they exist and are its to set."""
    for name in require_mapping(what, parameters):
        if name in ("seed", "run_dir"):
            own = f"sets {name!r}, which every point has its own of"
            raise ParameterError(f"{what} {own}; leave it out")
    require_known(f"parameter of {what},", parameters, RunConfig.model_fields)
    return dict(parameters)


def given_parameters(pairs: Iterable[Sequence[str]]) -> dict[str, Any]:
    """Return the parameters that the command line sets by -p NAME VALUE.

    Args:
        pairs: of a name and a text; of equal names the last counts.

    Returns:
        Name -> value, of the type that papermill's -p gives it: number, True, False, None or text;
        what begins with a bracket is read as YAML. A relative path counts from the present folder.

    Raises:
        ParameterError: for an unknown name, for seed and run_dir, and for YAML with an error.
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


def checked_seeds(seeds: Any) -> list[int]:
    """Return the seeds, if they are different whole numbers from 0 on."""
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(set(seeds)) < len(seeds):
        needs = "must be a list of different whole numbers from 0 on, such as [0, 1, 2]"
        raise ParameterError(f"seeds={short(seeds)} {needs}")
    return list(seeds)
