"""No parameter and no file of parameters can hurt: it is refused in one line, or the run it
describes can be made."""

import ast
import os
import re
import signal
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import papermill.iorw
import pytest
import torch
import yaml
from bad_inputs import FIELDS, WAYS, Bad, complaint, run, wrong
from conftest import MODELS, ROOT, build, tiny_config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from image_layouts import save

from asintrovae import (
    ParameterError,
    RunConfig,
    build_data,
    build_model,
    evaluate,
    save_record,
    train,
)
from asintrovae.build import check_giant
from asintrovae.config import DATASETS, short
from asintrovae.running.loop import Loop
from asintrovae.sweeps import command as sweep
from asintrovae.sweeps import grid

few = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}
few |= {"phases": [Phase.generate]}  # to shrink an example that fails would train again and again


def test_bad_values_names_and_combinations_are_refused_in_one_line():
    tried, wrongly_accepted = run(800)
    assert tried >= 500
    assert not wrongly_accepted, "\n".join(wrongly_accepted)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_accepted_or_not_named_would_be_reported(way):
    assert complaint(Bad({"seed": 3}, "seed"), way).endswith("accepted")
    assert "does not name it" in complaint(Bad({"seed": -3}, "margin"), way)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_refuses_what_it_cannot_take(name):
    """Also those that the draws above did not meet; a number without a range is one of them."""
    kind = next(
        (option for option in FIELDS[name].get("anyOf", []) if option["type"] != "null"),
        FIELDS[name],
    )

    @settings(max_examples=15, **few)
    @given(wrong(FIELDS[name]))
    def check(value):
        with pytest.raises(ParameterError, match=rf"^{name}=") as caught:
            RunConfig(**{name: value})
        assert str(caught.value).isprintable()

    check()
    if kind.get("type") in ("integer", "number"):
        assert {"minimum", "exclusiveMinimum"} & kind.keys()
        assert {"maximum", "exclusiveMaximum"} & kind.keys(), f"{name} has no upper bound"


class Rude:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        "x\n" * 10**6,
        [["x" * 10**6] * 10**3] * 99,
        np.zeros((99, 99)),
        10**5000,
        Rude(),
        {"a\n": {}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_in_one_short_line(value):
    assert short(value).isprintable()
    assert len(short(value)) <= 200
    with pytest.raises(ParameterError) as caught:
        RunConfig(widths=value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


def test_many_mistakes_are_one_line_too():
    with pytest.raises(ParameterError, match=r"'name_4' .*; and 95 more$"):
        RunConfig(**{f"name_{i}": i for i in range(100)})


def test_every_kind_of_misspelt_variable_of_a_notebook_is_noticed():
    for value in ("x", b"x", 1, 0.5, True, None, [1], (1,), {"a": 1}, {1}):
        with pytest.raises(ParameterError, match=r"unknown parameter 'sede' .*did you mean 'seed'"):
            RunConfig.from_namespace({"sede": value, "In": [""], "Out": {}, "_": 3, "torch": torch})


small = st.fixed_dictionaries(
    {
        "widths": st.lists(st.integers(1, 8), min_size=1, max_size=3),
        "latent_dim": st.integers(1, 4),
        "batch_size": st.integers(1, 8),
        "iterations": st.integers(2, 3),
        "evaluation_samples": st.integers(2, 40),
        "log_every": st.integers(1, 10**9),
        "checkpoint_every": st.integers(1, 10**9),
    },
    optional={
        **{
            name: st.floats(0, 10) | st.just(1e9)
            for name in ("beta_rec", "beta_kl", "beta_neg", "gamma_r", "margin")
        },
        **{
            name: st.floats(0, 10) | st.just(1e9)
            for name in ("distance_weight", "gradient_penalty")
        },
        "alpha": st.floats(1e-6, 1e6),
        "kl_annealing": st.floats(0, 1),
        "decoder_std": st.just(0.0) | st.floats(0, 1e9),
        "fourier_features": st.integers(0, 8),
        "kernel": st.sampled_from(FIELDS["kernel"]["enum"]),
        "bandwidth": st.floats(0, 10)
        | st.just(1e9)
        | st.lists(st.floats(0, 10), min_size=1, max_size=3),
        "estimator": st.sampled_from(["v", "u"]),
        "pairing": st.sampled_from(FIELDS["pairing"]["enum"]),
        "squash": st.booleans(),
        "mirror": st.booleans(),
        "channels_last": st.booleans(),
        "c": st.none() | st.floats(0, 1),
        "critic_steps": st.integers(1, 3),
        "warmup": st.none() | st.integers(0, 4),
        "learning_rate": st.floats(1e-300, 1),
        "adam_betas": st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2),
        "milestones": st.lists(st.integers(1, 10**9), max_size=3),
        "ema": st.floats(0, 1, exclude_max=True),
        "seed": st.integers(0, 2**63 - 1),
        "precision": st.sampled_from(FIELDS["precision"]["enum"]),
        "workers": st.none() | st.just(0),
    },
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(22):
        save(folder / f"{i:02d}.png", 10 * i)
    return folder


def use(parameters, run_dir):
    """Return whether the run was made; else one line said before it began that it cannot be."""
    refused = None
    try:
        config = RunConfig(**parameters, device="cpu", run_dir=str(run_dir))
        check_giant(config)
        data, model, objective = build(config)
    except ValueError as error:
        refused = str(error)
    if refused is not None:
        assert refused.isprintable()
        assert any(name in refused for name in parameters), refused
        assert not run_dir.exists()
        return False
    result = train(model, objective, data, config)
    metrics = evaluate(model, data, config)
    assert save_record(config, result, metrics)["status"] in ("finished", "diverged")
    return True


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dataset", DATASETS["points"])
@pytest.mark.filterwarnings("ignore:lr_scheduler")
def test_what_is_accepted_trains_on_points(model, dataset, tmp_path):
    made = []

    @settings(max_examples=2, **few)
    @given(small)
    def check(parameters):
        made.append(
            use({**parameters, "model": model, "dataset": dataset}, tmp_path / str(len(made)))
        )

    check()
    assert any(made)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_accepted_trains_on_images(model, tmp_path, pictures):
    made = []

    @settings(max_examples=4, **few)
    @given(small, st.sampled_from([8, 9, 16]))
    def check(parameters, resolution):
        images = {
            "dataset": "folder",
            "data_dir": str(pictures),
            "resolution": resolution,
            "model": model,
        }
        made.append(use({**parameters, **images}, tmp_path / str(len(made))))

    check()
    assert any(made)


def bounds():
    """The least and the greatest value of every number, with what else it needs; those that only
    say how long are left out."""
    for name, kind in FIELDS.items():
        kind = next((option for option in kind.get("anyOf", []) if option["type"] != "null"), kind)
        if kind.get("type") not in ("integer", "number") or name in ("iterations", "threads"):
            continue
        for edge in ("minimum", "maximum", "exclusiveMaximum"):
            if edge in kind:
                step = 1 if kind["type"] == "integer" else 1e-9
                yield name, kind[edge] - step * (edge == "exclusiveMaximum")


@pytest.mark.parametrize(("name", "value"), list(bounds()))
def test_the_ends_of_every_range_can_be_used_or_are_refused(
    name, value, tmp_path, pictures, monkeypatch
):
    """On a machine of 4 GiB or less: two iterations, or one line before anything is asked for."""
    model = "wgan_gp" if name in ("critic_steps", "gradient_penalty") else "as_intro"
    gigabytes = 1 if name == "resolution" else 4  # an iteration at 4096 takes minutes
    monkeypatch.setattr("asintrovae.build.memory", lambda device: gigabytes * 2**30)
    needs = {
        "devices": {"batch_size": value},
        "warmup": {},
        "decoder_std": {"warmup": 0, "latent_dim": 4},
    }
    needs["resolution"] = {"dataset": "folder", "data_dir": str(pictures), "latent_dim": 2}
    other = needs.get(name, {"warmup": 0})
    refused = None
    try:
        config = tiny_config(
            tmp_path, **{"model": model, "widths": (4,), "batch_size": 4, **other, name: value}
        )
        check_giant(config)
    except ParameterError as error:
        refused = str(error)
    if refused is not None:
        assert name in refused
        assert refused.isprintable()
        assert name in ("batch_size", "devices", "warmup") or (name, value) == ("resolution", 4096)
        return
    data, network, objective = build(config)
    loop = Loop(network, objective, data, config)
    assert loop.iterate(0)
    assert loop.iterate(1)


@pytest.mark.parametrize(
    ("parameters", "part"),
    [
        ({"widths": [2**16, 2**16, 2**16]}, "widths"),
        ({"batch_size": 2**20}, "batch_size"),
        ({"batch_size": 2**20, "latent_dim": 2**16, "model": "vae"}, "batch_size"),
        ({"latent_dim": 2**16, "widths": [2**16], "model": "vae"}, "latent_dim"),
        ({"devices": 1024, "batch_size": 1024, "model": "vae"}, "devices"),
        ({"dataset": "folder", "data_dir": ".", "resolution": 4096, "latent_dim": 2**16}, "widths"),
    ],
)
def test_a_run_larger_than_the_memory_is_refused_before_it_is_asked_for(
    parameters, part, monkeypatch
):
    monkeypatch.setattr("asintrovae.build.memory", lambda device: 64 * 2**30)
    config = RunConfig(**parameters, device="cpu")
    with pytest.raises(
        ParameterError,
        match=rf"^{part}=|^widths=.*{part}=.*: the run needs more than \d+ GiB .* cpu has 64",
    ):
        check_giant(config)
    with pytest.raises(ParameterError, match="the run needs more than"):
        build_data(config)
    if part == "widths":
        with pytest.raises(ParameterError, match=r"^widths="):
            build_model(config, (2,) if config.dataset == "8gaussians" else (3, 4096, 4096))


def test_a_giant_is_refused_before_any_image_is_decoded(pictures, monkeypatch):
    monkeypatch.setattr("asintrovae.build.memory", lambda device: 2**30)
    monkeypatch.setattr("asintrovae.data.images.read_all", None)
    given = {"dataset": "folder", "data_dir": str(pictures), "resolution": 64, "device": "cpu"}
    with pytest.raises(
        ParameterError, match=r"^widths=.*: the run needs more than \d+ GiB of memory"
    ):
        build_data(RunConfig(**given, widths=[2**14, 2**14]))
    with pytest.raises(ValueError, match="batch_size=20 exceeds the 19 training images"):
        build_data(RunConfig(**given, batch_size=20))


def test_the_memory_of_this_machine_suffices_for_the_published_runs():
    for path in (ROOT / "book" / "training" / "params").glob("*.yaml"):
        check_giant(RunConfig(**yaml.safe_load(path.read_text()), device="cpu"))


def test_counting_the_weights_leaves_the_seed_its_weights(tmp_path):
    config = tiny_config(tmp_path)
    state = torch.get_rng_state()
    one, other = (build_model(config, (2,)).state_dict() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_file_in_the_place_of_run_dir_is_refused_before_anything_is_built(tmp_path):
    (tmp_path / "file").write_text("precious")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        with pytest.raises(
            ParameterError,
            match=r"run_dir='.*': '.*/file' is a file, a run needs a folder; name one",
        ):
            build_data(tiny_config(run_dir))
    build_data(tiny_config(tmp_path / "new" / "folder"))
    build_data(tiny_config(tmp_path))
    assert (tmp_path / "file").read_text() == "precious"


def test_one_image_at_a_time_needs_something_to_normalise(pictures):
    given = {
        "dataset": "folder",
        "data_dir": str(pictures),
        "resolution": 8,
        "widths": (2, 2, 2),
        "device": "cpu",
    }
    with pytest.raises(
        ParameterError,
        match=r"batch_size=1 leaves BatchNorm nothing .* widths=\(2, 2, 2\) halve .* 1x1",
    ):
        RunConfig(**given, batch_size=1)
    _, model, _ = build(RunConfig(**given, batch_size=2))
    assert model.training
    model.encode(torch.rand(2, 3, 8, 8))


# Files


@contextmanager
def within(seconds):
    """Fail, rather than hang, where the work goes on and on; the limit is far above its time."""

    def stop(*_):
        raise AssertionError(f"still at work after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def bomb(lines):
    """YAML of a few hundred bytes that stands for 9 ** lines words."""
    text = 'a0: &a0 ["lol"]\n'
    return text + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, lines)
    )


def grid_text(**changes):
    content = {
        "notebook": str(ROOT / "book/training/toy.ipynb"),
        "run_dir": "runs",
        "seeds": [0],
        "axes": {},
        "fixed": {},
    }
    return yaml.safe_dump({**content, **changes}, sort_keys=False, allow_unicode=False)


MANY_LABELS = f"axes: {{m: {{{', '.join(f'a{k}: {{}}' for k in range(40_000))}}}}}"

TAGS = [
    "!!python/object/apply:os.system ['touch PROOF']",
    "!!python/object/new:os.system ['touch PROOF']",
    '!!python/object/apply:builtins.eval [\'open("PROOF", "w")\']',
    "!!python/object/apply:subprocess.check_output [['touch', 'PROOF']]",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!!python/object:pathlib.Path {}",
    "!!python/tuple [1]",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch PROOF']",
]


@pytest.mark.parametrize("tag", TAGS)
def test_no_yaml_file_can_name_code(tag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for place in ("run_dir", "notebook", "fixed", "axes", "seeds"):
        path = tmp_path / "grid.yaml"
        path.write_text(grid_text(**{place: "HERE"}).replace("HERE", tag))
        assert sweep.main([str(path), "--dry-run"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "cannot be read: could not determine a constructor for the tag" in error
        (tmp_path / "parameters.yaml").write_text(f"beta_kl: {tag}\n")
        with pytest.raises(
            yaml.constructor.ConstructorError, match="could not determine a constructor"
        ):
            papermill.iorw.read_yaml_file(
                str(tmp_path / "parameters.yaml")
            )  # what papermill reads -f with, and -y alike
    assert not (tmp_path / "PROOF").exists()


@pytest.mark.parametrize("place", ["fixed", "axes"])
def test_a_name_of_a_grid_cannot_be_code(place, tmp_path, monkeypatch):
    """papermill writes names into the notebook as they are, so those of a grid are looked at
    before."""
    monkeypatch.chdir(tmp_path)
    code = "seed = open('PROOF', 'w')  #"
    parameters = {code: 1}
    path = tmp_path / "grid.yaml"
    path.write_text(
        grid_text(**{place: parameters if place == "fixed" else {"a": {"b": parameters}}})
    )
    with pytest.raises(ParameterError, match=r"unknown parameter of .*open.*did you mean"):
        grid.read_grid(path)
    path.write_text(grid_text(axes={code: [1]}))
    with pytest.raises(ParameterError, match="unknown parameter of a list"):
        grid.read_grid(path)
    assert not (tmp_path / "PROOF").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(30), r"alias \*a0; write out what it is"),
        ("a: &a [*a]", r"alias \*a; write out"),
        ("fixed: &f {}\naxes: {<<: *f}", r"alias \*f; write out"),
        ("[" * 10**5, "recursion"),
        ("{a: " * 10**5, "recursion"),
        ("x" * 2**21, "more than 1048576 bytes"),
        ("seeds: " + "9" * 10**5, "cannot be read: "),
        ("seeds: 2001-99-99", "month must be in 1..12"),
        ("seeds: !!int x", "cannot be read: "),
        (f"seeds: [0x{'f' * 9000}]", "cannot be read: .*digits"),
        ("seeds: !!bool x", "cannot be read: "),
        ("seeds: !!timestamp x", "cannot be read: "),
        ("!!map [1]", "cannot be read: "),
        ("? [1]\n: 2", "unhashable key"),
        ("\0", "cannot be read: .*not allowed"),
        ("a: b\n---\nc: d", "expected a single document"),
        ("", "the file must be a mapping"),
        ("run_dir: [a]\nnotebook: a\nseeds: [0]", r"run_dir=\['a'\] must be text"),
        ("run_dir: a\nnotebook: 3\nseeds: [0]", "notebook=3 must be text"),
        ('run_dir: a\nnotebook: "a\\0b"\nseeds: [0]', "notebook: no file"),
        (f"run_dir: a\nnotebook: {'x' * 5000}\nseeds: [0]", "notebook: no file"),
        (grid_text(run_dir="a\0b"), "run_dir=.*NUL"),
        (grid_text(run_dir="x" * 300), "run_dir=.*255 bytes"),
        (grid_text(seeds=[10**30]), "^seed 10+: seed=10+: must be below"),
        (grid_text(seeds=[*range(1000), -1]), r"^seeds=\[0, 1.*\.\.\.\] must be a list"),
        (
            grid_text(
                axes={
                    "beta_kl": [i / 400 for i in range(400)],
                    "beta_rec": [i / 400 for i in range(400)],
                }
            ),
            "make 160000 points",
        ),
        (grid_text(seeds=[0, 1, 2]).replace("axes: {}", MANY_LABELS), "make 120000 points"),
        (grid_text(axes={"a": {"table.csv": {}}}), "label 'table.csv' is the name of the table"),
        (grid_text(axes={"a": {"é" * 100 + "x": {}}}), "names no plain folder"),
        (grid_text(axes={"a": {"é" * 99 + "xyz": {}}}), "names no plain folder"),
        (grid_text(axes={"": {"b": {}}}), "must have a name of 1 to 100"),
        (grid_text(axes={"a\nb": {"b": {}}}), "must have a name of 1 to 100"),
        (grid_text(axes={"x" * 10**5: {"b": {}}}), "must have a name of 1 to 100"),
        (grid_text(fixed={"data_dir": b"x"}), "data_dir=b'x': must be text"),
        (grid_text(fixed={"widths": {1, 2}}), "widths=.*must be a list"),
        (grid_text(axes={"beta_kl": [float("nan")]}), "beta_kl=nan: must be finite"),
        (grid_text(axes={"dataset": ["../../x"]}), "label 'dataset=../../x' names no plain folder"),
        (
            grid_text(axes={"fid_weights": ["/etc/passwd"]}),
            "label 'fid_weights=/etc/passwd' names no plain folder",
        ),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_grid_that_means_harm_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with within(60), pytest.raises(ParameterError) as caught:
        grid.read_grid(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line) < 1500
    assert re.search(message.replace("^", f"^{path}: "), line), line
    assert os.listdir(tmp_path) == ["grid.yaml"]


def test_a_grid_that_never_ends_is_refused(tmp_path):
    with (
        within(60),
        pytest.raises(ParameterError, match=r"/dev/zero: cannot be read: it has more than"),
    ):
        grid.read_grid(Path("/dev/zero"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\0" * 99,
        b'{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    ],
)
def test_a_notebook_that_is_none_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "bad.ipynb").write_bytes(content)
    (tmp_path / "grid.yaml").write_text(grid_text(notebook="bad.ipynb"))
    with pytest.raises(
        ParameterError,
        match=r"^[^\n]*notebook: the parameters of '.*bad\.ipynb' cannot be read \([^\n]+$",
    ):
        grid.read_grid(tmp_path / "grid.yaml")


labels = (
    st.sampled_from(["a", "b", "B", "c.d"])
    | st.text("abAB0.=_-+,/\\~ \0é", max_size=6)
    | st.sampled_from(["..", "../x", "/etc", "a/../../b", "C:\\x", "nul", "~root", "%2e%2e"])
)


def mostly(good):
    """What the grid needs in this place, or now and then something else."""
    return st.integers(0, 4).flatmap(lambda die: values if die == 0 else st.just(good))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | labels,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(labels, inner, max_size=3),
    max_leaves=6,
)
axes = st.dictionaries(
    labels | st.sampled_from(["beta_kl", "widths", "data_dir", "run_dir", "seed"]),
    st.dictionaries(
        labels,
        st.dictionaries(st.sampled_from(["beta_kl", "alpha"]), st.floats(0, 1), max_size=1),
        max_size=2,
    )
    | values,
    max_size=2,
)


def test_whatever_a_grid_says_its_runs_lie_below_its_folder_apart_from_each_other(
    tmp_path, monkeypatch
):
    defaults = grid.notebook_defaults(ROOT / "book" / "training" / "toy.ipynb")
    monkeypatch.setattr(grid, "notebook_defaults", lambda _: defaults)  # read once
    path, made, refusals = tmp_path / "grid.yaml", [], []

    @settings(max_examples=300, **few)
    @given(axes, mostly([0, 1]), mostly({}))
    def check(axes, seeds, fixed):
        with suppress(yaml.YAMLError):
            path.write_text(grid_text(axes=axes, seeds=seeds, fixed=fixed))
        try:
            folder, points = grid.read_grid(path)
        except ParameterError as error:
            refusals.append(str(error))
            return
        assert folder == tmp_path / "runs"
        places = [point.run_dir.resolve() for point in points]
        assert len({str(place).casefold() for place in places}) == len(places)
        assert all(place.is_relative_to(folder) and place != folder for place in places)
        assert not any(a in b.parents for a in places for b in places)
        made.append(len(points))

    check()
    assert all(map(str.isprintable, refusals))
    assert min(len(made), len(refusals)) > 10, (
        "nothing was accepted or nothing refused, so nothing was shown"
    )


# Source

FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "execfile",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
}
FORBIDDEN |= {
    "yaml.unsafe_load_all",
    "yaml.full_load_all",
    "os.system",
    "os.popen",
    "marshal.loads",
    "shelve.open",
    "dill.load",
}
FORBIDDEN |= {
    f"{module}.{name}"
    for module in ("pickle", "cPickle", "joblib")
    for name in ("load", "loads", "Unpickler")
}
SAFE_ONLY_WITH = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "np.load": ("allow_pickle", False),
}


def unsafe_calls(source):
    """Calls that would run what a file says, as line and name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {
                keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords
            }
            word, value = SAFE_ONLY_WITH.get(name, ("", None))
            if name in FORBIDDEN or given.get("shell") or (word and given.get(word) is not value):
                yield f"{node.lineno}: {name}"
        if isinstance(node, ast.ImportFrom) and node.module in (
            "yaml",
            "pickle",
            "marshal",
            "dill",
            "joblib",
        ):
            yield f"{node.lineno}: from {node.module}"


def test_the_package_has_no_loader_that_runs_what_it_reads():
    sources = {
        path: path.read_text()
        for folder in ("asintrovae", "book/tools")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(sources) > 30
    assert {
        str(path): found for path, text in sources.items() if (found := list(unsafe_calls(text)))
    } == {}


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "yaml.load(x, L)",
        "torch.load(x)",
        "pickle.loads(x)",
        "np.load(x)",
        "run(x, shell=True)",
        "from yaml import load",
    ],
)
def test_an_unsafe_loader_would_be_found(line):
    assert len(list(unsafe_calls(line))) == 1
