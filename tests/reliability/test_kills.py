"""A run that is killed, or asked to end, at any moment ends like one that was left alone: to the
bit, on a CPU."""

import re
import signal
import subprocess
import sys
import threading

import psutil
import pytest
import torch
from conftest import build, tiny_config
from image_layouts import save
from killing import (
    Forked,
    Tally,
    compare,
    config_of,
    kill_at_every_line,
    kill_at_random,
    lines_of_a_save,
    whole_run,
)

from asintrovae import build_data, train
from asintrovae.running import signals as interruption
from asintrovae.running.checkpoint import CURRENT, load_checkpoint
from asintrovae.sweeps import ensemble
from asintrovae.sweeps.ensemble import train_ensemble

pytestmark = pytest.mark.xdist_group("reliability")  # one process forks the others
SIGNALS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
each_signal = pytest.mark.parametrize(("number", "error"), SIGNALS, ids=["SIGINT", "SIGTERM"])


def way_out(number, run_dir, more=""):
    """What is said of a run that was asked to end."""
    text = (
        f"{number.name}: stopped; run_dir='{run_dir}'{more} has the checkpoint, from which the "
        "same command goes on"
    )
    return re.escape(text)


def test_killed_at_random_moments(tmp_path):
    tally, small = Tally(), {"model": "soft_intro", "ema": 0.9, "milestones": [30]}
    seconds = whole_run(config_of(tmp_path / "whole", **small))
    kill_at_random(config_of(tmp_path / "killed", **small), 3, seconds / 2, seed=1, tally=tally)
    compare(tmp_path / "killed", tmp_path / "whole", tally)
    assert not tally.lost
    assert tally.kills == 3


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.weekly)])
def test_killed_at_every_line_of_a_save(tmp_path, step):
    """Or, between two weeks, at every third of its thirty lines."""
    tally, lines = Tally(), range(1, lines_of_a_save(tmp_path) + 1, step)
    assert len(lines) >= 10
    small = {"iterations": 3 * len(lines) + 3, "checkpoint_every": 1}
    whole_run(config_of(tmp_path / "whole", **small))
    kill_at_every_line(config_of(tmp_path / "killed", **small), lines, tally)
    compare(tmp_path / "killed", tmp_path / "whole", tally)
    assert not tally.lost
    assert tally.kills == len(lines)


def test_one_of_two_processes_killed(tmp_path):
    """Its fellow cannot go on alone; together they take up where both were."""
    tally, small = Tally(), {"model": "as_intro", "devices": 2, "iterations": 30, "c": 0.5}
    seconds = whole_run(config_of(tmp_path / "whole", **small))
    kill_at_random(config_of(tmp_path / "killed", **small), 2, seconds, seed=3, tally=tally)
    compare(tmp_path / "killed", tmp_path / "whole", tally)
    assert not tally.lost
    assert tally.kills_of_one_of_two_processes == 2


@pytest.mark.parametrize(
    ("number", "devices"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2)]
)
def test_a_signal_from_outside_saves_first(tmp_path, number, devices):
    """Whenever it comes; of two processes one is told, and both stop at the same iteration."""
    small = {"iterations": 300, "checkpoint_every": 300, "log_every": 100, "devices": devices}
    whole_run(config_of(tmp_path / "whole", **small))
    asked = config_of(tmp_path / "asked", **small)
    forked = Forked(asked)
    forked.signal(number, rank=devices - 1)
    assert forked.end() == [1] * devices
    assert re.search(
        way_out(number, asked.run_dir), (tmp_path / "asked.log").read_text().splitlines()[-1]
    )
    assert 0 < load_checkpoint(tmp_path / "asked").meta["iteration"] < 300
    whole_run(asked)
    tally = Tally()
    compare(tmp_path / "asked", tmp_path / "whole", tally)
    assert not tally.lost


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_saves_first(tmp_path, number):
    """As a batch system or a terminal sends it: also to those that decode images, which the run
    still needs."""
    for i in range(40):
        save(tmp_path / "images" / f"{i:02d}.png", 5 * i)
    small = {
        "dataset": "folder",
        "data_dir": str(tmp_path / "images"),
        "resolution": 16,
        "widths": [2, 2],
        "latent_dim": 2,
    }
    small |= {
        "iterations": 10**6,
        "checkpoint_every": 10**6,
        "log_every": 10**6,
        "workers": 2,
        "batch_size": 4,
    }
    config = config_of(tmp_path / "asked", **small)
    forked = Forked(config)
    forked.signal(number, family=True)
    assert forked.end() == [1]
    assert re.search(
        way_out(number, config.run_dir), (tmp_path / "asked.log").read_text().splitlines()[-1]
    )
    assert load_checkpoint(tmp_path / "asked").meta["iteration"] > 0


HOLDING = """
from torch.utils.data import DataLoader
from asintrovae.data.image_files import leave_signals_to_the_run
started = {"num_workers": 2, "worker_init_fn": leave_signals_to_the_run}
held = [iter(DataLoader(range(10**9), None, **started))]
held.append(held)
next(held[0])
"""


def test_a_program_that_still_holds_processes_that_load_data_ends():
    """multiprocessing tells them to end, and waits: a process that hears no signal at all would be
    waited for for ever."""
    assert subprocess.run([sys.executable, "-c", HOLDING], timeout=100).returncode == 0


def launched_by(forked):
    """All processes below a run that launches its own, once it trains; and the two that train."""
    forked.wait_until_it_trains()
    family = psutil.Process(forked.processes[0].pid).children(recursive=True)
    workers = [
        p
        for p in family
        if "asintrovae.running.worker" in p.cmdline() and "torch.distributed.run" not in p.cmdline()
    ]
    assert len(workers) == 2
    return family, workers


def test_processes_that_train_launches_are_ended_in_order(tmp_path):
    """A caller is killed: they save, and end by themselves, or they would write beside the next
    ones. In another run one of them dies, and the caller says so in one line; in a third the caller
    is asked to end."""
    small = {"devices": 2, "iterations": 10**6, "checkpoint_every": 10**6, "log_every": 10**6}
    forked = Forked(config_of(tmp_path / "gone", **small), launched=True)
    family, _ = launched_by(forked)
    assert forked.kill(0)
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert load_checkpoint(tmp_path / "gone").meta["iteration"] > 0
    config = config_of(tmp_path / "dies", **small)
    forked = Forked(config, launched=True)
    family, workers = launched_by(forked)
    workers[1].kill()
    assert forked.end() == [1]
    line = (
        f"RuntimeError: devices=2: a process failed; run_dir='{config.run_dir}' keeps the last "
        "checkpoint, from which"
    )
    assert line in (tmp_path / "dies.log").read_text()
    assert not psutil.wait_procs(family, timeout=60)[1]
    config = config_of(tmp_path / "told", **small)
    forked = Forked(config, launched=True)
    forked.signal(signal.SIGTERM)
    assert forked.end() == [1]
    assert re.search(
        way_out(signal.SIGTERM, config.run_dir),
        (tmp_path / "told.log").read_text().splitlines()[-1],
    )
    assert load_checkpoint(tmp_path / "told").meta["iteration"] > 0


class Telling:
    """A data set that sends this process signals when a certain batch is first asked for."""

    def __init__(self, data, at, *numbers):
        self.data, self.at, self.numbers, self.shape = data, at, numbers, data.shape

    def batch(self, index):
        if index == self.at:
            numbers, self.numbers = self.numbers, ()
            for number in numbers:
                signal.raise_signal(number)
        return self.data.batch(index)


@pytest.fixture
def before():
    """Handlers as they were before training: they note what reaches them."""
    seen = []
    handlers = {
        number: signal.signal(number, lambda number, _: seen.append(number))
        for number, _ in SIGNALS
    }
    mine = [signal.getsignal(number) for number in handlers]
    yield seen
    assert [signal.getsignal(number) for number in handlers] == mine
    for number, handler in handlers.items():
        signal.signal(number, handler)


def train_told(config, at, *numbers):
    data, model, objective = build(config)
    return train(model, objective, Telling(data, at, *numbers), config), model


@each_signal
@pytest.mark.parametrize("at", [0, 13, 19])
def test_a_signal_ends_the_run_after_the_iteration_it_comes_in(tmp_path, before, number, error, at):
    """Also in the last one; what waits behind the run was not asked for any more."""
    config = tiny_config(tmp_path / "told")
    with pytest.raises(error, match=way_out(number, config.run_dir)):
        train_told(config, at, number)
    assert before == []
    assert load_checkpoint(tmp_path / "told").meta["iteration"] == at + 1
    (told, model), (whole, other) = (
        train_told(config, None),
        train_told(tiny_config(tmp_path / "whole"), None),
    )
    assert told.history == whole.history
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_second_ctrl_c_acts_as_outside(tmp_path, before, monkeypatch):
    monkeypatch.setattr(interruption, "SAME_REQUEST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_told(tiny_config(tmp_path), 13, signal.SIGINT, signal.SIGINT)
    assert before == [signal.SIGINT]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@each_signal
def test_a_repeated_request_does_not_end_the_run_before_it_has_saved(
    tmp_path, before, number, error, second
):
    """A Jupyter client that is interrupted sends SIGINT, and SIGTERM 2.5 seconds later."""
    with pytest.raises(error, match=way_out(number, str(tmp_path))):
        train_told(tiny_config(tmp_path), 13, number, second)
    assert before == []
    assert load_checkpoint(tmp_path).meta["iteration"] == 14


def test_a_run_of_images_saved_at_once_ends_like_one_that_was_left_alone(tmp_path, before):
    """Its checkpoint lacks the statistics of BatchNorm and the sheet of samples; resuming adds
    them."""
    images = {
        "dataset": "mnist-subset",
        "widths": [2, 2],
        "latent_dim": 2,
        "batch_size": 8,
        "ema": 0.9,
    }
    images |= {"iterations": 6, "checkpoint_every": 6, "evaluation_samples": 16}
    told, whole = (tiny_config(tmp_path / name, **images) for name in ("told", "whole"))

    class AtTheLast(Telling):
        """The statistics of the untrained model have asked for every batch already."""

        def batch(self, index):
            x = self.data.batch(index)
            if index == self.at and (tmp_path / "told" / CURRENT).exists():
                signal.raise_signal(signal.SIGTERM)
            return x

    data, model, objective = build(told)
    with pytest.raises(SystemExit):
        train(model, objective, AtTheLast(data, 5), told)
    saved = load_checkpoint(tmp_path / "told")
    assert (saved.meta["iteration"], saved.meta["saved_at_once"]) == (6, True)
    assert [path.name for path in (tmp_path / "told" / "progress").iterdir()] == ["0000000.png"]
    (_, model), (_, other) = train_told(told, None), train_told(whole, None)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    sheets = [sorted((tmp_path / name / "progress").iterdir()) for name in ("told", "whole")]
    assert [path.read_bytes() for path in sheets[0]] == [path.read_bytes() for path in sheets[1]]


def test_an_ignored_signal_stays_ignored(tmp_path):
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert len(train_told(tiny_config(tmp_path), 13, signal.SIGINT)[0].history) == 4
    finally:
        signal.signal(signal.SIGINT, handler)


def test_outside_the_main_thread_signals_are_left_alone(tmp_path, before):
    results = []
    thread = threading.Thread(target=lambda: results.append(train_told(tiny_config(tmp_path), 13)))
    thread.start()
    thread.join()
    assert len(results[0][0].history) == 4


def test_an_error_is_not_hidden_by_a_signal(tmp_path, before):
    class Failing(Telling):
        def batch(self, index):
            x = super().batch(index)
            if index == self.at:
                raise ValueError("the data are gone")
            return x

    config = tiny_config(tmp_path)
    data, model, objective = build(config)
    with pytest.raises(ValueError, match="the data are gone"):
        train(model, objective, Failing(data, 13, signal.SIGTERM), config)


@each_signal
def test_an_ensemble_saves_every_member(tmp_path, before, monkeypatch, number, error):
    members = [tiny_config(tmp_path / f"told{k}", model="soft_intro", seed=k) for k in range(3)]
    told = {0: [number]}
    monkeypatch.setattr(
        ensemble,
        "build_data",
        lambda config: Telling(build_data(config), 13, *told.get(config.seed, [])),
    )
    with pytest.raises(error, match=way_out(number, members[0].run_dir, " and 2 more")):
        train_ensemble(members)
    monkeypatch.undo()
    assert {load_checkpoint(tmp_path / f"told{k}").meta["iteration"] for k in range(3)} == {14}
    whole = [config.model_copy(update={"run_dir": f"{config.run_dir}-whole"}) for config in members]
    for one, other in zip(train_ensemble(members), train_ensemble(whole), strict=True):
        assert one.history == other.history
