"""Files that several writers share, that are links, or that a killed writer has left."""

import os
import stat
import threading
from pathlib import Path

import numpy
import pytest
import torch
from conftest import build, tiny_config
from safetensors.torch import save_file

from asintrovae import ParameterError, load_run, save_record, train
from asintrovae.evaluation.feature_cache import _kept
from asintrovae.figures.plots import images_figure, save_figure
from asintrovae.figures.widgets import load_film
from asintrovae.files import STALE, write_atomically
from asintrovae.running.checkpoint import CURRENT, PREVIOUS, load_checkpoint
from asintrovae.running.records import load_records, load_samples, save_samples
from asintrovae.running.result import TrainingResult


def write_often(path, count, previous=None, writers=3):
    """Let threads write one file at the same time; returns the errors."""
    errors = []

    def go(letter):
        for _ in range(count):
            try:
                write_atomically(path, letter * 10**5, previous)
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=go, args=[bytes([65 + k])]) for k in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("previous", [None, "table.previous.csv"])
def test_writers_of_one_file_do_not_disturb_each_other(tmp_path, previous):
    older = None if previous is None else tmp_path / previous
    assert write_often(tmp_path / "table.csv", 60, older) == []
    files = [tmp_path / "table.csv", *([] if older is None else [older])]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for path in files:
        content = path.read_bytes()
        assert len(content) == 10**5
        assert len(set(content)) == 1


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_leftovers_of_killed_writers_are_removed_and_files_in_use_are_not(tmp_path):
    path = tmp_path / "a[1].json"
    names = {"a[1].json.tmp": STALE + 9, "a[1].json.0a1b2c3d.tmp": STALE + 9}
    names |= {"a[1].json.99999999.tmp": STALE - 99, "a1.json.0a1b2c3d.tmp": STALE + 9}
    for name, age in names.items():
        (tmp_path / name).write_bytes(b"part")
        now = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name, (now - age, now - age))
    write_atomically(path, b"whole")
    left = {"a[1].json", "a[1].json.99999999.tmp", "a1.json.0a1b2c3d.tmp"}
    assert {found.name for found in tmp_path.iterdir()} == left


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "kept", tmp_path / "a"
    link.symlink_to(Path("disk") / "kept")
    for content in (b"1", b"2", b"3"):
        write_atomically(link, content, previous=tmp_path / "b")
    assert link.is_symlink()
    assert (target.read_bytes(), (tmp_path / "b").read_bytes()) == (b"3", b"2")
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["kept"]


def mapped(folder):
    """Files below a folder that this process maps into its memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc/self/maps: not Linux")
def test_what_has_been_read_is_not_mapped(tmp_path):
    """Windows cannot replace a file that is mapped."""
    config = tiny_config(tmp_path / "run", iterations=30)
    data, model, objective = build(config)
    result = train(model, objective, data, config)
    save_record(config, result, {})
    checkpoint, run = load_checkpoint(tmp_path / "run"), load_run(tmp_path / "run")
    assert {CURRENT, PREVIOUS} <= {path.name for path in (tmp_path / "run").iterdir()}
    save_file({"features": torch.rand(3, 2)}, tmp_path / "cached.safetensors", {"sha256": ""})
    with pytest.warns(UserWarning, match="is damaged"):
        assert _kept(tmp_path / "cached.safetensors", {}) is None
    assert mapped(tmp_path) == []
    assert checkpoint.meta["iteration"] == run.config.iterations == 30


def test_a_run_that_goes_on_maps_no_checkpoint(tmp_path):
    config = tiny_config(tmp_path)
    data, model, objective = build(config)
    seen = []

    class Watched:
        def __init__(self, stop):
            self.stop = stop

        def batch(self, index):
            if index == self.stop:
                raise InterruptedError
            seen.append(len(mapped(tmp_path)) if Path("/proc/self/maps").exists() else 0)
            return data.batch(index)

    with pytest.raises(InterruptedError):
        train(model, objective, Watched(15), config)
    train(model, objective, Watched(None), config)
    assert len(seen) > 20
    assert not any(seen)


def finished(folder):
    """A run of points as it is left, without its training."""
    config = tiny_config(folder)
    save_samples(config, torch.rand(9, 2))
    save_record(
        config, TrainingResult([{"iteration": 5, "joint.loss": 1.5}], 1.0), {"protocol_kl": 2.0}
    )


DAMAGED = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "other": lambda _: b"\xff\n7",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("record.json", load_run),
        ("record.json", load_records),
        ("history.csv", load_run),
        ("samples.npy", load_samples),
    ],
)
def test_a_damaged_file_of_a_record_is_named_with_the_way_out(tmp_path, name, load, damage):
    finished(tmp_path)
    load(tmp_path)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ParameterError,
        match=rf"^{path} cannot be read \([^\n]+\); put back a copy, or start the run again[^\n]+$",
    ):
        load(tmp_path)


def test_a_record_of_a_parameter_that_does_not_exist_is_named(tmp_path):
    finished(tmp_path)
    path = tmp_path / "record.json"
    path.write_text(
        path.read_text().replace('"batch_size": 32', '"batch_size": 32, "size_of_batch": 32')
    )
    with pytest.raises(
        ParameterError, match=rf"^{path} cannot be read \(unknown parameter 'size_of_batch'"
    ):
        load_run(tmp_path)


def test_a_history_that_is_missing_is_named(tmp_path):
    finished(tmp_path)
    (tmp_path / "history.csv").unlink()
    with pytest.raises(
        ParameterError,
        match=r"history\.csv cannot be read \(No such file or directory\); put back a copy",
    ):
        load_run(tmp_path)


def test_a_metric_that_is_not_finite_is_none_with_the_reason(tmp_path):
    metrics = {
        "psnr": float("inf"),
        "fid": None,
        "mse": 0.0,
        "not_measured": {"fid": "needs at least 2 images, got 1"},
    }
    record = save_record(tiny_config(tmp_path), TrainingResult([{"iteration": 5}]), metrics)
    assert record["metrics"] == {"psnr": None, "fid": None, "mse": 0.0}
    assert record["not_measured"] == {"fid": "needs at least 2 images, got 1", "psnr": "is inf"}
    assert "not_measured" in metrics
    assert load_run(tmp_path).record == record


@pytest.mark.parametrize("keep", [0, 9, 150, -9])
def test_a_damaged_film_is_named(tmp_path, keep):
    path = tmp_path / "frames.npz"
    numpy.savez_compressed(path, modes=numpy.arange(9), kl=numpy.ones(3))
    assert load_film(tmp_path).keys() == {"modes", "kl"}
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        ValueError,
        match=rf"^{path} is damaged \([^\n]*\); record another with book/tools/training_frames.py$",
    ):
        load_film(tmp_path)


def test_a_figure_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    figure = images_figure({"row": torch.zeros(2, 1, 8, 8)})
    save_figure(figure, tmp_path / "new", "a.png")
    before = (tmp_path / "new" / "a.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device; what was saved before is kept"):
        save_figure(figure, tmp_path / "new", "a.png")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [
        ("a.png", before)
    ]
