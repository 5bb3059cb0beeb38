"""Sweeps: what a grid means, what is refused, and a cluster whose worker dies in the middle of a
run."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from conftest import ROOT, build
from filelock import FileLock

from asintrovae import ParameterError, RunConfig, load_run, save_record, train
from asintrovae.running.checkpoint import load_checkpoint, save_checkpoint
from asintrovae.running.result import NonFinite, TrainingResult
from asintrovae.sweeps import cluster, grid, status
from asintrovae.sweeps import command as sweep
from asintrovae.sweeps import point as point_module

TRAINING = ROOT / "book" / "training"
LAPTOP = TRAINING / "sweeps" / "toy_laptop.yaml"
SMALL = {
    "iterations": 60,
    "widths": [8],
    "batch_size": 32,
    "evaluation_samples": 100,
    "log_every": 20,
    "device": "cpu",
}
AXES = {"model": {"vae": {"model": "vae"}, "soft": {"model": "soft_intro"}}, "beta_kl": [0.1, 0.2]}


def grid_file(folder, **changes):
    """A grid of eight points in grid.yaml; a change to None leaves a key out."""
    grid = {
        "notebook": str(TRAINING / "toy.ipynb"),
        "run_dir": "runs",
        "fixed": SMALL,
        "axes": AXES,
        "seeds": [0, 1],
        **changes,
    }
    path = folder / "grid.yaml"
    path.write_text(
        yaml.safe_dump(
            {key: value for key, value in grid.items() if value is not None}, sort_keys=False
        )
    )
    return path


def points_of(path):
    return grid.read_grid(Path(path))[1]


def read_table(folder):
    """The rows of the table, every field as text."""
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def record(point, divergence=None, **metrics):
    """What a run of the point would leave, without the run."""
    config = point.config.model_copy(update={"run_dir": str(point.run_dir)})
    save_record(config, TrainingResult([], 1.25, divergence), {"protocol_kl": 20.0, **metrics})


def test_a_grid_is_the_product_of_its_axes_and_seeds(tmp_path):
    points = points_of(grid_file(tmp_path))
    assert [point.name for point in points[:3]] == [
        "vae/beta_kl=0.1/0",
        "vae/beta_kl=0.1/1",
        "vae/beta_kl=0.2/0",
    ]
    assert len(points) == len({point.name for point in points}) == 8
    last = points[-1]
    assert last.labels == {"model": "soft", "beta_kl": "beta_kl=0.2"}
    assert last.run_dir == tmp_path / "runs" / "soft" / "beta_kl=0.2" / "1"
    own = {"model": "soft_intro", "beta_kl": 0.2, "seed": 1, "run_dir": "runs/soft/beta_kl=0.2/1"}
    assert last.parameters == {**SMALL, "threads": 1, **own}
    assert (last.config.model, last.config.widths, last.config.threads, last.config.beta_rec) == (
        "soft_intro",
        (8,),
        1,
        0.2,
    )


def test_what_the_grid_leaves_out_is_the_notebooks_but_for_one_thread(tmp_path):
    images = grid_file(
        tmp_path,
        notebook=str(TRAINING / "images.ipynb"),
        fixed={},
        axes={"model": {"vae": {"model": "vae"}}},
    )
    (first, *_) = points_of(images)
    assert (first.config.dataset, first.config.latent_dim, first.config.threads) == (
        "mnist-subset",
        32,
        1,
    )
    assert first.parameters == {"model": "vae", "threads": 1, "seed": 0, "run_dir": "runs/vae/0"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("7", 7),
            ("1e-3", 0.001),
            ("True", True),
            ("true", True),
            ("None", None),
            ("null", None),
            ("cpu", "cpu"),
        ),
        *(
            ("[8, 16]", [8, 16]),
            ("[0.5, 0.9]", [0.5, 0.9]),
            ("a: b", "a: b"),
            ("2-d", "2-d"),
            ("no", False),
        ),
    ],
)
def test_a_value_of_the_command_line_has_the_type_of_papermill_or_yaml(text, value):
    assert grid.given_parameters([["estimator", text]]) == {"estimator": value}
    assert type(grid.given_parameters([["estimator", text]])["estimator"]) is type(value)


def test_parameters_of_the_command_line_are_those_of_every_point(tmp_path, monkeypatch):
    """In place of fixed ones; their relative paths count from the present folder."""
    path = grid_file(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pairs = [
        ["widths", "[4, 5]"],
        ["data_dir", "images"],
        ["learning_rate", "0.5"],
        ["learning_rate", "1e-2"],
        ["c", "None"],
    ]
    given = grid.given_parameters(pairs)
    for point in grid.read_grid(path, given=given)[1]:
        assert (point.config.widths, point.config.learning_rate, point.config.c) == (
            (4, 5),
            0.01,
            None,
        )
        assert point.config.data_dir == str(tmp_path / "here" / "images")
        assert point.config.iterations == SMALL["iterations"]


def test_every_parameter_that_is_a_path_counts_from_the_present_folder():
    paths = {
        name for name, kind in RunConfig.__annotations__.items() if "<function _path " in str(kind)
    }
    assert set(grid.PATHS) == paths - {"run_dir"}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (["beta_lk", "1"], "unknown parameter 'beta_lk'; did you mean 'beta_kl'?"),
        (
            ["beta_kl", "1"],
            "{path}: -p beta_kl 1: axis 'beta_kl' sets 'beta_kl'; change it, or leave -p out",
        ),
        (
            ["model", "vae"],
            "{path}: -p model 'vae': axis 'model' sets 'model'; change it, or leave -p out",
        ),
        (
            ["seed", "3"],
            "-p seed '3': every point has its own seed; list them under seeds in the grid",
        ),
        (["run_dir", "x"], "-p run_dir 'x': every point has its own run_dir; use --run-dir"),
        (["widths", "[8"], "-p widths '[8': cannot be read (while parsing a flow sequence"),
        (
            ["widths", "-1"],
            "{path}: axis 'model' at 'vae', axis 'beta_kl' at 'beta_kl=0.1': widths=-1: ",
        ),
    ],
)
def test_a_parameter_that_the_command_line_cannot_set_is_refused(tmp_path, capsys, pair, message):
    path = grid_file(tmp_path)
    assert sweep.main([str(path), "--dry-run", "-p", *pair]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"asintrovae-sweep: {message.format(path=path)}")
    assert said.err.count("\n") == 1


def test_a_finished_run_stays_finished_where_it_only_runs_elsewhere(tmp_path, capsys):
    path = grid_file(tmp_path, seeds=[0])
    points = points_of(path)
    for point in points:
        record(point)
    free = ["-p", "data_dir", "elsewhere", "-p", "threads", "2", "-p", "device", "auto"]
    for option, last in (
        ("--dry-run", "4 points: 4 finished"),
        ("--table", f"{tmp_path / 'runs' / 'table.csv'}: 4 rows"),
    ):
        assert sweep.main([str(path), option, *free]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == last
    assert sweep.main([str(path), "--dry-run", "-p", "batch_size", "8"]) == 2
    assert "holds another run (batch_size 32 there, 8 here)" in capsys.readouterr().err


def test_an_ensemble_trains_with_the_parameters_of_the_command_line(tmp_path):
    path = grid_file(tmp_path, axes={"beta_kl": [0.1, 0.2]}, seeds=[0])
    given = ["-p", "iterations", "20", "-p", "model", "vae"]
    assert sweep.main([str(path), "--ensemble", *given]) == 0
    for point in points_of(path):
        assert (
            load_run(point.run_dir).config.iterations,
            load_run(point.run_dir).config.model,
        ) == (20, "vae")


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_data_that_are_missing_are_said_before_a_point_starts(
    tmp_path, capsys, monkeypatch, option
):
    monkeypatch.delenv("ASINTROVAE_DATA", raising=False)
    monkeypatch.setattr(sweep, "cluster_for", None)
    images = {
        "notebook": str(TRAINING / "images.ipynb"),
        "axes": {"model": {"vae": {"model": "vae"}}},
        "seeds": [0],
    }
    path = grid_file(tmp_path, **images, fixed={"dataset": "mnist"})
    before = Path.cwd()
    for given, place in (
        ([], "data"),
        (["-p", "data_dir", str(tmp_path / "none")], tmp_path / "none"),
    ):
        assert sweep.main([str(path), *option, *given]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(
            f"asintrovae-sweep: dataset='mnist' not found in {place}/MNIST/raw; "
        )
        assert said.err.endswith(f"; or: asintrovae-sweep {path} -p data_dir FOLDER\n")
        assert said.err.count("\n") == 1
        assert ("1 points: 1 waiting" in said.out) == bool(option)
    assert Path.cwd() == before
    assert (
        sweep.main([str(path), "--dry-run", "-p", "download", "True"]) == 0
    )  # fetched when the point starts
    assert sweep.main([str(path), "--dry-run", "-p", "dataset", "mnist-subset"]) == 0
    folder = [
        "-p",
        "dataset",
        "folder",
        "-p",
        "data_dir",
        str(tmp_path),
        "-p",
        "feature_network",
        "None",
    ]
    assert sweep.main([str(path), "--dry-run", *folder]) == 2
    assert "holds 0 images" in capsys.readouterr().err


def test_paths_count_from_the_file_and_another_folder_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    path = grid_file(
        tmp_path / "deep", notebook=os.path.relpath(TRAINING / "toy.ipynb", tmp_path / "deep")
    )
    assert points_of(path)[0].run_dir == tmp_path / "deep/runs/vae/beta_kl=0.1/0"
    assert grid.read_grid(path, Path("else"))[1][0].run_dir == tmp_path / "else/vae/beta_kl=0.1/0"


def test_the_home_folder_is_meant_by_every_path_of_a_grid(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "toy.ipynb").write_bytes((TRAINING / "toy.ipynb").read_bytes())
    (tmp_path / "deep").mkdir()
    fixed = {**SMALL, "data_dir": "~/data"}
    path = grid_file(tmp_path / "deep", notebook="~/toy.ipynb", run_dir="~/runs", fixed=fixed)
    for given, folder in ((None, "runs"), (Path("~/else"), "else")):
        run_dir, points = grid.read_grid(path, given)
        assert run_dir == tmp_path / folder
        assert points[0].run_dir == tmp_path / folder / "vae/beta_kl=0.1/0"
        assert points[0].config.data_dir == str(tmp_path / "data")
    assert len(points_of("~/deep/grid.yaml")) == 8
    with pytest.raises(
        ParameterError, match=r"run_dir='~nobody-of-that-name/x': no home folder is known for"
    ):
        points_of(grid_file(tmp_path, run_dir="~nobody-of-that-name/x"))


def test_a_point_larger_than_this_machine_is_refused_before_a_cluster_starts(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("asintrovae.build.memory", lambda device: 2**30)
    monkeypatch.setitem(sys.modules, "distributed", type(sys)("distributed"))
    sys.modules["distributed"].Client = sys.modules["distributed"].LocalCluster = None
    assert sweep.main([str(grid_file(tmp_path, fixed={**SMALL, "widths": [2**16, 2**16]}))]) == 2
    assert "widths=(65536, 65536), latent_dim=2: the run needs more than" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["record", "checkpoint"])
def test_a_run_begun_before_a_parameter_existed_is_no_other(tmp_path, what):
    (first, *_) = points_of(grid_file(tmp_path))
    path = first.run_dir / "record.json"
    if what == "record":
        record(first)
        content = json.loads(path.read_text())
        del content["config"]["kl_annealing"]
        path.write_text(json.dumps(content))
    else:
        config = first.config.model_copy(update={"run_dir": str(first.run_dir)})
        data, model, objective = build(config)
        train(model, objective, data, config)
        checkpoint = load_checkpoint(first.run_dir)
        del checkpoint.meta["config"]["kl_annealing"]
        save_checkpoint(first.run_dir, checkpoint)
    assert (
        status.status_of(first)
        == {"record": "finished", "checkpoint": "interrupted at iteration 60 of 60"}[what]
    )
    other = points_of(grid_file(tmp_path, fixed={**SMALL, "kl_annealing": 0.5}))[0]
    with pytest.raises(
        ParameterError, match=r"holds another run \(kl_annealing 0.0 there, 0.5 here\)"
    ):
        status.status_of(other)


def test_without_axes_the_seeds_are_the_grid(tmp_path):
    assert [point.name for point in points_of(grid_file(tmp_path, axes=None))] == ["0", "1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [0]}, "unknown key 'sedes'; did you mean 'seeds'?"),
        (
            {"run_dir": None},
            "key 'run_dir' is missing or empty; a grid needs notebook, run_dir and seeds",
        ),
        (
            {"notebook": "nowhere.ipynb"},
            "notebook: no file '{folder}/nowhere.ipynb'; its path counts from the grid's folder",
        ),
        (
            {"seeds": 3},
            "seeds=3 must be a list of different whole numbers from 0 on, such as [0, 1, 2]",
        ),
        ({"seeds": [0, 0]}, "seeds=[0, 0] must be a list of different"),
        ({"seeds": [True]}, "seeds=[True] must be a list of different"),
        ({"seeds": [0.5]}, "seeds=[0.5] must be a list of different"),
        ({"axes": []}, None),
        ({"axes": ["model"]}, "axes must be a mapping, name: value, got ['model']"),
        (
            {"axes": {"model": {}}},
            "axis 'model' is empty; give it labels with parameters, or a list of values",
        ),
        ({"axes": {"model": []}}, "axis 'model' is empty; "),
        (
            {"axes": {"model": "vae"}},
            "axis 'model' must be a list of values, or a mapping, label: "
            "{{parameter: value}}, got 'vae'",
        ),
        (
            {"axes": {"status": {"a": {"beta_kl": 1}}}},
            "axis 'status': the table has a column of that name; rename the axis",
        ),
        (
            {"axes": {"m": {"a": ["vae"]}}},
            "axis 'm', label 'a' must be a mapping, name: value, got ['vae']",
        ),
        ({"axes": {"m": {0.1: {"beta_kl": 1}}}}, "axis 'm': 0.1 must be text; put it in quotes"),
        (
            {"axes": {"m": {"a": {"modle": "vae"}}}},
            "unknown parameter of axis 'm', label 'a', 'modle'; did you mean 'model'?",
        ),
        (
            {"axes": {"beta_lk": [0.1]}},
            "unknown parameter of a list, axis 'beta_lk', 'beta_lk'; did you mean 'beta_kl'?",
        ),
        (
            {"axes": {"m": {"a": {"seed": 3}}}},
            "axis 'm', label 'a' sets 'seed', which every point has its own of; leave it out",
        ),
        (
            {"fixed": {"run_dir": "x"}},
            "fixed sets 'run_dir', which every point has its own of; leave it out",
        ),
        (
            {"axes": {**AXES, "n": {"a": {"beta_kl": 1}}}},
            "axis 'n' sets 'beta_kl', which axis 'beta_kl' sets as well; leave",
        ),
        (
            {"axes": {"beta_kl": [1], "iterations": [60]}},
            "axis 'iterations' sets 'iterations', which fixed sets as well; leave",
        ),
        (
            {"axes": {"beta_kl": [1, "1"]}},
            "axis 'beta_kl': label 'beta_kl=1' stands there twice, and both would share a folder",
        ),
        ({"axes": {"m": {"a": {}, "A": {}}}}, "axis 'm': label 'A' stands there twice"),
        (
            {"axes": {"beta_kl": [-1]}},
            "axis 'beta_kl' at 'beta_kl=-1': beta_kl=-1: must be at least 0",
        ),
        (
            {"axes": {"m": {"a": {"warmup": 70}}}},
            "axis 'm' at 'a': warmup=70 exceeds iterations=60; lower it or leave it out",
        ),
    ],
)
def test_a_wrong_grid_is_refused_in_one_line(tmp_path, capsys, changes, message):
    path = grid_file(tmp_path, **changes)
    if message is None:  # the neighbour of a wrong one
        assert sweep.main([str(path), "--dry-run"]) == 0
        return
    assert sweep.main([str(path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"asintrovae-sweep: {path}: {message.format(folder=tmp_path)}")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "label", ["a/b", "..", ".", "../a", "", "a b", ".hidden", "a\\b", "-" * 101, "a\n", "c:"]
)
def test_a_label_that_is_no_plain_folder_is_refused(tmp_path, label):
    with pytest.raises(
        ParameterError, match=r"axis 'm': label '.* names no plain folder; use letters, digits and"
    ):
        points_of(grid_file(tmp_path, axes={"m": {label: {"model": "vae"}}}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0", "cannot be read: while parsing a flow sequence"),
        ("- a", r"the file must be a mapping, name: value, got \['a'\]"),
        (
            "axes: {m: {a: {model: vae}, a: {model: intro}}}",
            "cannot be read: 'a' twice; rename one .*line 1, column 29",
        ),
        (
            "notebook: !!python/object/apply:os.getcwd []",
            "cannot be read: could not determine a constructor",
        ),
        (b"\xff", "cannot be read: 'utf-8' codec"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_a_file_that_is_no_grid_is_refused(tmp_path, text, message):
    path = tmp_path / "grid.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError, match=rf"^{path}: {message}.*$"):
        grid.read_grid(path)


def test_without_the_extra_one_line_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert sweep.main([str(grid_file(tmp_path)), "--dry-run"]) == 2
    assert capsys.readouterr().err.endswith(
        'a sweep needs more than training does: pip install "asintrovae[sweep]"\n'
    )


def test_dry_run_tells_the_state_of_every_point_without_dask(tmp_path, capsys, monkeypatch):
    path = grid_file(tmp_path)
    finished, diverged, interrupted, *_ = points_of(path)
    record(finished)
    record(diverged, NonFinite(12, "joint.kl"))
    config = interrupted.config.model_copy(update={"run_dir": str(interrupted.run_dir)})
    data, model, objective = build(config)
    train(model, objective, data, config)
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    assert sweep.main([str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "vae/beta_kl=0.1/0  finished",
        "vae/beta_kl=0.1/1  diverged",
        "vae/beta_kl=0.2/0  interrupted at iteration 60 of 60",
        "vae/beta_kl=0.2/1  waiting",
    ]
    assert lines[8:] == ["8 points: 1 finished, 1 diverged, 1 interrupted, 5 waiting"]
    assert sweep.main([str(path), "--dry-run", "--only", "soft/"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 points: 4 waiting"
    assert sweep.main([str(path), "--dry-run", "--only", "sotf"]) == 2
    assert "only='sotf': no point has this in its name" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b'{"status": "finished", "config"', b"[]", b"\xff"])
def test_a_damaged_record_is_named_run_again_and_kept(tmp_path, capsys, content):
    """The rest of the grid goes on; what may be left of a finished run is not lost."""
    path = grid_file(tmp_path, axes={}, seeds=[0, 1])
    damaged, finished = points_of(path)
    record(damaged)
    record(finished)
    (damaged.run_dir / "record.json").write_bytes(content)
    said = (
        rf"^damaged \({damaged.run_dir}/record\.json cannot be read \([^\n]+\); put back a copy, "
        r"or start the run again"
    )
    assert re.match(said, status.status_of(damaged))
    assert sweep.main([str(path), "--table"]) == 0
    assert "1 rows" in capsys.readouterr().out
    assert sweep.main([str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 points: 1 damaged, 1 finished"
    assert sweep.main([str(path), "--ensemble"]) == 0
    assert [status.status_of(point) for point in (damaged, finished)] == ["finished", "finished"]
    assert (damaged.run_dir / "record.damaged.json").read_bytes() == content


def test_damaged_checkpoints_of_one_point_stop_no_other(tmp_path, capsys):
    path = grid_file(tmp_path, axes={}, seeds=[0, 1])
    damaged, finished = points_of(path)
    record(finished)
    damaged.run_dir.mkdir()
    (damaged.run_dir / "checkpoint.safetensors").write_bytes(b"")
    assert re.match(
        r"damaged \(run_dir='[^\n]+' holds no whole checkpoint", status.status_of(damaged)
    )
    assert sweep.main([str(path), "--table"]) == 0
    assert "1 rows" in capsys.readouterr().out


@pytest.mark.parametrize("length", [0, 90])
def test_sockets_of_kernels_have_short_paths(monkeypatch, length):
    folder = "/" + "t" * length
    monkeypatch.setattr("tempfile.tempdir", folder)
    monkeypatch.setattr("os.access", lambda *_: True)
    assert point_module.folder_of_sockets() == ("/tmp" if length else folder)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert point_module.folder_of_sockets() == folder


@pytest.mark.parametrize(
    ("length", "transport"),
    [(point_module.LONGEST_FOLDER, "ipc"), (point_module.LONGEST_FOLDER + 1, None)],
)
def test_kernels_listen_at_ports_where_no_path_is_short(tmp_path, monkeypatch, length, transport):
    point, seen = points_of(grid_file(tmp_path))[0], []
    point.run_dir.mkdir(parents=True)
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, config, **__: seen.append(config))
    point_module.execute_notebook(point, "x" * length)
    assert [config.get("KernelManager", {}).get("transport") for config in seen] == [transport]


@pytest.mark.parametrize("what", ["record", "checkpoint"])
def test_a_run_with_other_parameters_is_refused_before_anything_starts(
    tmp_path, capsys, monkeypatch, what
):
    """Also those that come from the notebook's defaults; not those that say only where and how
    often."""
    monkeypatch.setattr(sweep, "cluster_for", None)
    (first, *_) = points_of(grid_file(tmp_path))
    if what == "record":
        record(first)
    else:
        config = first.config.model_copy(update={"run_dir": str(first.run_dir)})
        data, model, objective = build(config)
        train(model, objective, data, config)
    assert (
        status.status_of(points_of(grid_file(tmp_path, fixed={**SMALL, "log_every": 3}))[0])
        != "waiting"
    )
    for changes, difference in (
        ({"widths": [9]}, "widths [8] there, [9] here"),
        ({"alpha": 3.0}, "alpha 2.0 there, 3.0 here"),
    ):
        path = grid_file(tmp_path, fixed={**SMALL, **changes})
        assert sweep.main([str(path)]) == 2
        error = capsys.readouterr().err
        assert (
            f"vae/beta_kl=0.1/0: '{first.run_dir}' holds another run ({difference}); remove "
            "it, or choose" in error
        )
    other = points_of(grid_file(tmp_path, fixed={**SMALL, "evaluation_samples": 200}))[0]
    if what == "record":
        with pytest.raises(ParameterError, match="evaluation_samples 100 there, 200 here"):
            status.status_of(other)
    else:  # nothing is evaluated yet
        assert status.status_of(other).startswith("interrupted")


def test_grids_are_taken_one_after_the_other_each_with_a_run_dir_of_its_own(tmp_path, capsys):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    paths = [str(grid_file(folder)) for folder in folders]
    record(points_of(paths[1])[0])
    assert sweep.main([*paths, "--table"]) == 0
    assert capsys.readouterr().out == (
        f"no table: no point is finished\n{folders[1] / 'runs' / 'table.csv'}: 1 rows\n"
    )
    assert sweep.main([*paths, "--table", "--run-dir", str(tmp_path)]) == 2
    assert (
        f"run_dir='{tmp_path}' would be that of 2 grids; give one grid" in capsys.readouterr().err
    )
    assert sweep.main([paths[0], str(tmp_path / "missing.yaml"), "--dry-run"]) == 2


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", ""])
def test_a_budget_that_is_no_time_is_refused_in_one_line(tmp_path, capsys, text):
    assert sweep.main([str(grid_file(tmp_path)), "--dry-run", f"--budget={text}"]) == 2
    needs = "must be a number of seconds above 0, such as 600, or left out"
    assert capsys.readouterr().err == f"asintrovae-sweep: budget='{text}' {needs}\n"


@pytest.mark.parametrize("slow", [False, True])
def test_points_of_all_grids_run_in_the_order_given_until_the_budget_is_over(
    tmp_path, capsys, monkeypatch, slow
):
    """On a cluster that only waits; of two grids with equal names."""
    given = []

    def wait(client, todo, gpus, bar):
        given.extend(point.run_dir for point in todo)
        record(points_of(paths[0])[1])
        time.sleep(60)

    @contextmanager
    def no_cluster(todo, scheduler, workers):
        try:
            yield None, []
        finally:
            if slow:  # as Dask does where a worker takes too long to end
                raise TimeoutError

    monkeypatch.setattr(sweep, "run_points", wait)
    monkeypatch.setattr(sweep, "cluster_for", no_cluster)
    folders = [tmp_path / "b", tmp_path / "a"]
    for folder in folders:
        folder.mkdir()
    paths = [grid_file(folder, axes={}) for folder in folders]
    record(points_of(paths[0])[0])
    start = time.monotonic()
    assert sweep.main([*map(str, paths), "--budget", "0.5"]) == 130
    assert time.monotonic() - start < 50
    assert given == [tmp_path / "b/runs/1", tmp_path / "a/runs/0", tmp_path / "a/runs/1"]
    said = "the 0.5 seconds of the budget are over: 2 of 4 runs finished, 0 saved on the way"
    way_on = "the same command goes on where this one was"
    assert capsys.readouterr().err.splitlines()[-1] == f"asintrovae-sweep: {said}; {way_on}"


def test_an_ensemble_saves_when_the_budget_is_over_and_the_same_command_finishes_it(
    tmp_path, capsys, monkeypatch
):
    path = grid_file(tmp_path, fixed=SMALL | {"iterations": 400, "checkpoint_every": 20}, seeds=[0])
    waiting = points_of(path)[-1].run_dir / "checkpoint.previous.safetensors"

    class OnceSaved(threading.Thread):
        """A timer whose time is over when the last run has saved some checkpoints."""

        def __init__(self, _, function):
            super().__init__(daemon=True)
            self.function = function

        def run(self):
            until(waiting.exists, "nothing was saved")
            self.function()

        def cancel(self):
            pass

    command = [str(path), "--ensemble", "--budget", "600", "--only", "soft"]
    with monkeypatch.context() as context:
        context.setattr(threading, "Timer", OnceSaved)
        assert sweep.main(command) == 130
    said = "the 600 seconds of the budget are over: 0 of 2 runs finished, 2 saved on the way; "
    assert said in capsys.readouterr().err
    assert sweep.main(command) == 0
    assert len(read_table(tmp_path / "runs")) == 2


GPU_DAY = {"mnist": "mnist", "cifar10": "cifar10", "flowers128": "oxford"}


@pytest.mark.parametrize(("name", "row"), GPU_DAY.items())
def test_a_day_of_a_gpu_is_the_published_size(name, row):
    """The parameters of the row and of the model's file, but for TF32."""
    points = points_of(TRAINING / "sweeps" / f"gpu_day_{name}.yaml")
    models = [point.config.model for point in points]
    assert models == ["soft_intro", "as_intro", "vae", "intro", "wgan_gp"]
    own = ("run_dir", "precision", "threads")
    for point, model in zip(points, models, strict=True):
        files = [TRAINING / "params" / f"{file}.yaml" for file in (row, f"model/{model}")]
        of_row, of_model = (yaml.safe_load(file.read_text()) for file in files)
        given = of_row | of_model
        expected = RunConfig(**given).model_dump(exclude=set(own))
        assert point.config.model_dump(exclude=set(own)) == expected
        assert point.config.precision == "tf32"
        assert not point.run_dir.resolve().is_relative_to(ROOT / "data")


def test_a_run_of_a_gpu_day_stops_saves_and_is_finished_by_the_same_command(tmp_path):
    """On the CPU and tiny; a budget within which nothing begins is doubled."""
    given = {"dataset": "mnist-subset", "widths": "[2, 2]", "latent_dim": 2, "batch_size": 4}
    given |= {"iterations": 500, "evaluation_samples": 4, "device": "cpu"}
    options = [text for pair in given.items() for text in ("-p", *map(str, pair))]
    options += ["--only", "soft_intro", "--run-dir", str(tmp_path)]
    budget, stops = 10, []
    while True:
        path = TRAINING / "sweeps" / "gpu_day_mnist.yaml"
        with start(path, "1", *options, "--budget", str(budget)) as process:
            _, error = process.communicate(timeout=600)
        if process.returncode == 0:
            break
        assert process.returncode == 130, error
        stops.append(error.strip().splitlines()[-1])
        budget = 600 if "1 saved" in stops[-1] else 2 * budget
    way_on = "the same command goes on where this one was"
    said = "seconds of the budget are over: 0 of 1 runs finished, 1 saved on the way"
    assert any(stop.endswith(f"{said}; {way_on}") for stop in stops), stops
    run = load_run(tmp_path / "soft_intro" / "0")
    assert (run.record["status"], run.config.iterations) == ("finished", 500)
    assert events(tmp_path / "soft_intro" / "0")[-3:] == ["interrupted", "started", "ended"]


def test_the_table_has_a_row_for_every_finished_or_diverged_point(tmp_path, capsys):
    path = grid_file(tmp_path)
    assert sweep.main([str(path), "--table"]) == 0
    assert capsys.readouterr().out == "no table: no point is finished\n"
    points = points_of(path)
    record(points[0], psnr=31.5)
    record(points[3], NonFinite(12, "joint.kl"), psnr=float("nan"))
    assert sweep.main([str(path), "--table"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'runs' / 'table.csv'}: 2 rows\n"
    first, last = read_table(tmp_path / "runs")
    assert list(first) == ["model", "beta_kl", *grid.COLUMNS, "protocol_kl", "psnr"]
    named = (
        "model",
        "beta_kl",
        "seed",
        "status",
        "diverged_iteration",
        "diverged_term",
        "seconds",
        "torch",
        "protocol_kl",
        "psnr",
    )
    assert [[table[name] for name in named] for table in (first, last)] == [
        ["vae", "beta_kl=0.1", "0", "finished", "", "", "1.2", torch.__version__, "20.0", "31.5"],
        [
            "vae",
            "beta_kl=0.2",
            "1",
            "diverged",
            "12",
            "joint.kl",
            "1.2",
            torch.__version__,
            "20.0",
            "",
        ],
    ]


def test_gpus_are_dealt_to_workers(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert cluster.gpu_groups(1) == ["0", "1", "2", "3", "4"]
    assert cluster.gpu_groups(2) == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,3")
    assert cluster.gpu_groups(1) == ["7", "3"]
    with pytest.raises(ParameterError, match="devices=3: this machine has 2 GPUs"):
        cluster.gpu_groups(3)


def test_points_trained_together_are_recorded_as_if_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = grid_file(tmp_path)
    done, *todo = points_of(path)
    record(done)
    before = (done.run_dir / "record.json").read_bytes()
    assert sweep.main([str(path), "--ensemble"]) == 0
    said = capsys.readouterr().out
    assert "vae/beta_kl=0.1/1 and 2 more: 3 runs of 60 iterations" in said
    assert "soft/beta_kl=0.1/0 and 3 more: 4 runs of 60 iterations" in said
    assert len(read_table(tmp_path / "runs")) == 8
    assert (done.run_dir / "record.json").read_bytes() == before
    for point in todo:
        run = load_run(point.run_dir)
        assert (run.record["status"], run.config) == ("finished", point.config)
        assert (point.run_dir / "samples.npy").exists()
    assert sweep.main([str(path), "--ensemble"]) == 0
    assert "runs of" not in capsys.readouterr().out
    images = grid_file(tmp_path, run_dir="else", axes={}, fixed={"dataset": "mnist-subset"})
    assert sweep.main([str(images), "--ensemble"]) == 2
    assert "dataset='mnist-subset': an ensemble trains on" in capsys.readouterr().err


def test_a_record_made_before_a_parameter_existed_has_its_default(tmp_path):
    point = points_of(grid_file(tmp_path))[0]
    record(point)
    path = point.run_dir / "record.json"
    path.write_text(path.read_text().replace('"squash": false,\n', ""))
    assert '"squash"' not in path.read_text()
    assert status.status_of(point) == "finished"


def test_the_laptop_sweep_is_the_toy_tables_with_their_weights(capsys, tmp_path):
    assert sweep.main([str(LAPTOP), "--dry-run", "--run-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[-1]) == (151, "150 points: 150 waiting")
    counts = Counter()
    for point in points_of(LAPTOP):
        there = yaml.safe_load(
            (TRAINING / "params" / f"{point.labels['setting']}.yaml").read_text()
        )
        for name in ("dataset", "beta_rec", "beta_kl", "beta_neg", "latent_dim"):
            assert getattr(point.config, name) == there[name]
        model, _, kernel = point.labels["model"].partition("-")
        assert (point.config.model, point.config.kernel) == (model, kernel or "mean")
        assert (point.config.iterations, point.config.widths, point.config.threads) == (
            8000,
            (128, 128),
            1,
        )
        assert point.run_dir.resolve() == ROOT / "data" / "runs" / "toy_laptop" / point.name
        counts[point.labels["setting"], point.config.seed] += 1
    assert set(counts.values()) == {5}
    assert len(counts) == 30


# A cluster: two good points, of which one is killed, and one that papermill refuses.
KILLED, OTHER, BAD = "good-killed/0", "good-other/0", "bad/0"
RUNS = {
    "good-killed": {"model": "soft_intro", "iterations": 1000},
    "good-other": {"model": "vae", "iterations": 60},
    "bad": {"dataset": "mnist-subset", "iterations": 60},
}
QUICK = {name: value for name, value in SMALL.items() if name != "iterations"} | {
    "checkpoint_every": 20,
    "warmup": 5,
}


def start(path, workers, *options):
    """The command in a session of its own, as from a shell."""
    command = [sys.executable, "-m", "asintrovae.sweeps", str(path), "--workers", workers, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def events(run_dir):
    """started, ended and failed, in order, as the processes of a point have written them."""
    log = run_dir / "sweep.log"
    return [line.split()[-1] for line in log.read_text().splitlines()] if log.exists() else []


def until(condition, what, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def middle_of(run_dir):
    """Wait until a run has saved some checkpoints of its own."""
    saved = run_dir / "checkpoint.previous.safetensors"
    until(saved.exists, f"no checkpoint in {run_dir}")


def alive(family):
    """Those that still run; a zombie has ended, and waits for a parent to notice."""
    found = []
    for process in family:
        with suppress(psutil.NoSuchProcess):
            found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
    return found


def with_a_killed_worker(folder):
    """A sweep while whose first point runs a worker is killed: grid file, folder, exit status, what
    was seen."""
    path = grid_file(folder, fixed=QUICK, axes={"run": RUNS}, seeds=[0])
    killed, seen = folder / "runs" / KILLED, {}
    with start(path, "2") as process:
        middle_of(killed)
        (child,) = [
            p
            for p in psutil.Process(process.pid).children(recursive=True)
            if p.cmdline()[-2:] == ["--point", KILLED]
        ]
        family = [child, *child.children(recursive=True)]
        seen["worker"] = child.parent().cmdline()
        child.parent().kill()
        until(lambda: events(killed).count("started") == 2, "the killed point did not start again")
        seen["alive"], seen["kernels"] = alive(family), len(family) - 1
        seen["at"] = load_checkpoint(killed).meta["iteration"]
        seen["output"], seen["error"] = process.communicate(timeout=300)
    return path, folder / "runs", process.returncode, seen


def the_killed_run_went_on_and_was_completed_once(runs, seen):
    assert any("spawn_main" in word for word in seen["worker"]), seen[
        "worker"
    ]  # it was a Dask worker
    assert (seen["alive"], seen["kernels"]) == ([], 1), (
        "the first process of the run or its kernel was still there"
    )
    assert 20 <= seen["at"] < 1000, "not in the middle"
    assert events(runs / KILLED) == ["started", "interrupted", "started", "ended"]
    assert events(runs / OTHER) == ["started", "ended"]
    for name in (KILLED, OTHER):
        assert {"record.json", "history.csv", "notebook.ipynb", "samples.png"} <= {
            file.name for file in (runs / name).iterdir()
        }


def the_run_is_that_of_an_uninterrupted_process(runs, tmp_path, name):
    run = load_run(runs / name)
    config = run.config.model_copy(update={"run_dir": str(tmp_path / name)})
    data, model, objective = build(config)
    assert train(model, objective, data, config).history == run.history
    assert all(
        torch.equal(run.model.state_dict()[key], tensor)
        for key, tensor in model.state_dict().items()
    )


def the_failing_point_was_tried_twice_and_reported(runs, status, seen):
    assert status == 1
    assert events(runs / BAD) == ["started", "failed"] * 2
    (line,) = [line for line in seen["error"].splitlines() if "failed twice" in line]
    assert (
        f"{BAD}: failed twice: ParameterError: dataset='mnist-subset': this notebook takes "
        "8gaussians, 25gaussians" in line
    )
    assert line.rstrip().endswith(
        '(in the notebook\'s line: config = RunConfig.from_namespace(globals(), kind="points"))'
    )
    assert "Traceback" not in seen["error"]
    assert "3/3" in seen["error"]
    assert "failed=1" in seen["error"]
    assert seen["output"] == f"{runs / 'table.csv'}: 2 rows\n"
    assert [row["run"] for row in read_table(runs)] == ["good-killed", "good-other"]


def finished_points_do_not_run_again(path, runs, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "cluster_for", None)
    written = [(runs / name / "record.json").stat().st_mtime_ns for name in (KILLED, OTHER)]
    assert sweep.main([str(path), "--only", "good"]) == 0
    assert [(runs / name / "record.json").stat().st_mtime_ns for name in (KILLED, OTHER)] == written
    assert capsys.readouterr().out.endswith("2 rows\n")


def a_point_waits_for_whoever_runs_it_and_then_has_nothing_to_do(path, runs):
    (point,) = [point for point in points_of(path) if point.name == OTHER]
    before, line = events(runs / OTHER), json.dumps(asdict(point)) + "\n"
    command, pipes = (
        [sys.executable, "-m", "asintrovae.sweeps", "--point", OTHER],
        {"stdin": subprocess.PIPE, "text": True},
    )
    with FileLock(point.run_dir / ".lock") as lock, subprocess.Popen(command, **pipes) as process:
        process.stdin.write(line)
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(6)
        lock.release()
        assert process.wait(60) == 0
    assert events(runs / OTHER) == before


def only_what_is_missing_runs_and_ctrl_c_ends_everything(path, runs, capsys):
    for file in (runs / KILLED).iterdir():
        file.unlink()
    with start(path, "1", "--only", "good") as process:
        middle_of(runs / KILLED)
        family = psutil.Process(process.pid).children(recursive=True)
        assert sum("ipykernel_launcher" in member.cmdline() for member in family) == 1
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        error.strip().splitlines()[-1]
        == "asintrovae-sweep: interrupted; the same command goes on where this one was"
    )
    assert "Traceback" not in error
    assert "1/2" in error, "finished points count from the start"
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert events(runs / KILLED) == ["started", "interrupted"]
    assert events(runs / OTHER) == ["started", "ended"]
    assert sweep.main([str(path), "--dry-run", "--only", "good"]) == 0
    interrupted, finished, _ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{KILLED}  interrupted at iteration [1-9]\d* of 1000", interrupted)
    assert finished == f"{OTHER}  finished"


def test_a_sweep_goes_on_through_a_killed_worker_a_failing_point_and_ctrl_c(
    tmp_path, monkeypatch, capsys
):
    """One test, since each step takes what the one before has left, whichever process runs the
    tests."""
    path, runs, status, seen = with_a_killed_worker(tmp_path)
    the_killed_run_went_on_and_was_completed_once(runs, seen)
    the_failing_point_was_tried_twice_and_reported(runs, status, seen)
    for name in (KILLED, OTHER):
        the_run_is_that_of_an_uninterrupted_process(runs, tmp_path / "alone", name)
    with monkeypatch.context() as context:
        finished_points_do_not_run_again(path, runs, context, capsys)
    a_point_waits_for_whoever_runs_it_and_then_has_nothing_to_do(path, runs)
    only_what_is_missing_runs_and_ctrl_c_ends_everything(path, runs, capsys)
    print(
        "completed once:",
        {name: events(runs / name) for name in (OTHER, BAD)},
        "killed at",
        seen["at"],
        "of 1000",
    )
