"""Parameters that no run may begin with, drawn for every field of RunConfig from what the field
itself says it takes.

    python tests/reliability/bad_inputs.py 10000

A new field is covered as soon as it exists; one without a range accepts a number that no run can
use, and is reported.
"""

import re
import sys
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from asintrovae import ParameterError, RunConfig

FIELDS = RunConfig.model_json_schema()["properties"]
WORDS = st.text("xz☃\n\t\0' ", min_size=1, max_size=9)  # no number, no truth value, no option
LONG = st.sampled_from(["x" * 10**6, "z\n" * 10**5, ["x" * 1000] * 1000])
STRANGE = st.sampled_from([b"5", {"x": 1}, {1, 2}, 1j, object(), len, [[]], [{}], [None], ["x"]])
NOT_FINITE = st.sampled_from([float("nan"), float("inf"), -float("inf"), "nan", "inf", "-inf"])
HUGE = st.sampled_from([10**30, -(10**30), 1e300, -1e300, 10**4000, 10**400])


@dataclass(frozen=True)
class Bad:
    """Parameters, one of which is wrong in itself or besides the others; named: what the error has
    to name."""

    parameters: dict[str, Any]
    named: str


def out_of_range(kind: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Numbers outside the range that a field declares; for one that declares none, far from any
    that makes sense."""
    whole = kind["type"] == "integer"
    low, high = (
        kind.get("minimum", kind.get("exclusiveMinimum")),
        kind.get("maximum", kind.get("exclusiveMaximum")),
    )
    steps = st.integers(1, 10**6) if whole else st.floats(1e-3, 1e6)
    below = HUGE.filter(lambda x: x < 0) if low is None else steps.map(lambda step: low - step)
    above = (
        HUGE.filter(lambda x: x > 0)
        if high is None
        else steps.map(lambda step: high * (1 + step) + step)
    )
    edges = [kind[name] for name in ("exclusiveMinimum", "exclusiveMaximum") if name in kind]
    found = below | above | HUGE | (st.sampled_from(edges) if edges else st.nothing())
    return found | found.filter(lambda x: abs(x) < 10**300).map(str)


def wrong(kind: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a field of this JSON schema cannot take."""
    if "anyOf" in kind:  # or None
        return wrong(next(option for option in kind["anyOf"] if option["type"] != "null")).filter(
            lambda x: x is not None
        )
    if "oneOf" in kind:  # a number or a list
        number, several = kind["oneOf"]
        return wrong(number) | wrong(several).filter(lambda x: isinstance(x, list))
    anything = WORDS | LONG | STRANGE | NOT_FINITE | st.none()
    if kind["type"] in ("integer", "number"):
        fractions = (
            st.floats(0.01, 0.99).map(lambda x: x + 1)
            if kind["type"] == "integer"
            else st.nothing()
        )
        return anything | st.booleans() | out_of_range(kind) | fractions
    if kind["type"] == "boolean":
        return anything | st.integers(2) | st.floats(0.1, 0.9) | HUGE
    if kind["type"] == "array":
        items = kind.get("items") or kind["prefixItems"][0]
        least, most = kind.get("minItems", 0), kind.get("maxItems", 10**4)
        good = items.get("minimum", 0)
        lengths = st.sampled_from([[good] * (most + 1), *([[good] * (least - 1)] if least else [])])
        some = st.lists(st.just(good), min_size=max(least - 1, 0), max_size=min(most - 1, 3))
        spoilt = st.tuples(some, wrong(items)).map(lambda parts: [*parts[0], parts[1]])
        no_list = (anything | st.integers() | st.floats()).filter(lambda x: not isinstance(x, list))
        return no_list | lengths | spoilt
    numbers = st.integers() | st.floats() | st.booleans()
    if "enum" in kind or "pattern" in kind:
        near = st.sampled_from(
            kind.get(
                "enum",
                ["cuda:", "cuda:-1", "cuda:1000", "gpu", "CPU", "cpu:0", "auto ", "cuda:1e1"],
            )
        )
        return anything | numbers | (near.map(lambda text: text + " ") if "enum" in kind else near)
    paths = ["", "\0", "a\0b", "x/" * 10**4, "x" * 256, "é" * 200, "\ud800"]
    return st.sampled_from(paths) | STRANGE | st.none() | numbers | st.just(b"runs")


def misspelt(name: str) -> st.SearchStrategy[str]:
    """Names near this one that are no parameter."""
    place, letter = st.integers(0, len(name) - 1), st.sampled_from("aeiorstn2")
    edits = st.tuples(place, letter, st.sampled_from(["without", "with", "instead"]))
    ends = {"without": (0, 1), "with": (1, 0), "instead": (1, 1)}

    def edit(drawn: tuple[int, str, str]) -> str:
        at, char, how = drawn
        put, gone = ends[how]
        return name[:at] + char * put + name[at + gone :]

    return edits.map(edit).filter(lambda word: word.isidentifier() and word not in FIELDS)


POINTS, IMAGES = ["8gaussians", "rings"], ["mnist", "cifar10"]
CONTRADICTIONS = st.one_of(
    st.integers(1, 10**6).flatmap(
        lambda T: st.integers(T + 1, 2 * T).map(
            lambda warmup: Bad({"iterations": T, "warmup": warmup}, "warmup")
        )
    ),
    st.integers(2, 10**6).flatmap(
        lambda T: st.integers(-(-T // 5), T).map(
            lambda warmup: Bad({"iterations": T, "warmup": warmup}, "warmup")
        )
    ),
    st.just(Bad({"dataset": "folder"}, "data_dir")),
    st.integers(1, 1000).map(lambda n: Bad({"batch_size": n * 3 + 1, "devices": 3}, "devices")),
    st.integers(2, 9).map(
        lambda n: Bad({"device": f"cuda:{n}", "devices": n, "batch_size": n}, "device")
    ),
    st.sampled_from(POINTS).map(
        lambda name: Bad({"dataset": name, "channels_last": True}, "channels_last")
    ),
    st.just(Bad({"estimator": "u", "batch_size": 1}, "estimator")),
    st.sampled_from(POINTS).map(
        lambda name: Bad({"dataset": name, "resolution": 64}, "resolution")
    ),
    st.sampled_from(IMAGES).map(
        lambda name: Bad({"dataset": name, "resolution": 64}, "resolution")
    ),
    st.sampled_from([*IMAGES, "celeba256"]).map(
        lambda name: Bad({"dataset": name, "widths": [4] * 9}, "widths")
    ),
    st.just(Bad({"dataset": "cifar10", "widths": [4] * 5, "batch_size": 1}, "batch_size")),
    st.sampled_from(IMAGES).map(
        lambda name: Bad({"dataset": name, "batch_size": 10**6}, "batch_size")
    ),
    st.sampled_from(POINTS).map(
        lambda name: Bad({"dataset": name, "feature_network": "inception"}, "feature_network")
    ),
    st.just(Bad({"dataset": "cifar10", "feature_network": "mnist-classifier"}, "feature_network")),
    st.sampled_from(IMAGES).map(
        lambda name: Bad(
            {"dataset": name, "feature_network": "inception", "evaluation_samples": 3},
            "evaluation_samples",
        )
    ),
)


@st.composite
def bad_parameters(draw: st.DrawFn) -> Bad:
    """One wrong value, one misspelt name or one contradiction."""
    what = draw(st.sampled_from(["value", "value", "value", "name", "together"]))
    if what == "together":
        return draw(CONTRADICTIONS)
    name = draw(st.sampled_from(sorted(FIELDS)))
    if what == "value":
        return Bad({name: draw(wrong(FIELDS[name]))}, name)
    word = draw(misspelt(name))
    return Bad({word: FIELDS[name]["default"]}, word)


def plain(value: Any) -> bool:
    """Whether a YAML file can hold the value and papermill can write it into a notebook."""
    if isinstance(value, int):
        return abs(value) < 10**400
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or isinstance(value, (str, float, dict))


def by_papermill(parameters: dict[str, Any]) -> RunConfig:
    """As a training notebook takes them: papermill writes a cell, and the next one reads its
    variables."""
    namespace: dict[str, Any] = {"In": [""], "Out": {}, "RunConfig": RunConfig}
    exec(PythonTranslator.codify(parameters), namespace)
    return RunConfig.from_namespace(namespace)


WAYS = {
    "call": lambda given: RunConfig(**given),
    "namespace": RunConfig.from_namespace,
    "papermill": by_papermill,
}


def complaint(bad: Bad, way: str) -> str | None:
    """None if the parameters are refused in one line that names what is wrong, else what happened
    instead."""
    if way == "papermill" and not all(map(plain, bad.parameters.values())):
        way = "namespace"
    given = ", ".join(f"{name}={str(value)[:100]!r}" for name, value in bad.parameters.items())
    what = f"{way}, {given}"
    try:
        WAYS[way](bad.parameters)
    except ParameterError as error:
        message = str(error)
        if len(message.splitlines()) != 1 or len(message) > 2000 or not message.isprintable():
            return f"{what}: no single line: {message[:300]!r}"
        return (
            None
            if re.search(rf"\b{bad.named}\b", message)
            else f"{what}: does not name it: {message}"
        )
    except Exception as error:
        return f"{what}: {type(error).__name__}: {str(error)[:300]}"
    return f"{what}: accepted"


def run(n: int, random: int | None = None) -> tuple[int, list[str]]:
    """Try n bad inputs; returns how many were tried, and a line for each that was not refused as it
    should be.

    random: a seed for other inputs than those that are always the same.
    """
    tried, wrongly_accepted = 0, []

    @settings(
        max_examples=n,
        derandomize=random is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(bad_parameters(), st.sampled_from(sorted(WAYS)))
    def check(bad: Bad, way: str) -> None:
        nonlocal tried
        tried += 1
        if (found := complaint(bad, way)) is not None:
            wrongly_accepted.append(found)

    (check if random is None else seed(random)(check))()
    return tried, wrongly_accepted


if __name__ == "__main__":
    tried, accepted = run(int(sys.argv[1]), random=int(sys.argv[2]) if sys.argv[2:] else None)
    print(
        *accepted,
        f"{tried} bad inputs tried, {len(accepted)} not refused in one clear line",
        sep="\n",
    )
    sys.exit(bool(accepted))
