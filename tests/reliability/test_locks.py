"""One run in one folder at a time; whoever was killed holds none."""

import os
import re
import socket
import threading

import pytest
from conftest import build, tiny_config
from image_layouts import save
from killing import FORKED, Forked, config_of, hold, stop_while_decoding

from asintrovae import ParameterError, train
from asintrovae.data import images
from asintrovae.running.checkpoint import load_checkpoint
from asintrovae.running.lock import OWNER, locked
from asintrovae.sweeps.ensemble import train_ensemble

pytestmark = pytest.mark.xdist_group("reliability")


def run(config, data=None):
    own, model, objective = build(config)
    return train(model, objective, data or own, config)


def refusal(run_dir, pid):
    text = (
        f"run_dir='{run_dir}' is being trained by process {pid} on {socket.gethostname()}; wait "
        "for its end, or choose another"
    )
    return rf"^{re.escape(text)} run_dir$"


class Holder:
    """A run that holds its folder for as long as this takes; in a process of its own."""

    def __init__(self, config):
        self.forked = Forked(
            config.model_copy(
                update={"iterations": 10**9, "checkpoint_every": 10**9, "log_every": 10**9}
            )
        )

    def __enter__(self):
        self.forked.wait_until_it_trains()
        return self.forked.processes[0].pid

    def __exit__(self, *_):
        self.forked.kill(0)


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path):
    config = config_of(tmp_path / "run")
    with Holder(config) as pid:
        for other in (
            config,
            config.model_copy(update={"seed": 1}),
            config.model_copy(update={"devices": 2}),
        ):
            with pytest.raises(ParameterError, match=refusal(config.run_dir, pid)):
                run(other)
    assert (tmp_path / "run" / OWNER).exists()  # it was killed, and left this behind
    (tmp_path / "run" / "checkpoint.safetensors").unlink()  # of a run with more iterations
    assert len(run(config).history) == 60
    assert not (tmp_path / "run" / OWNER).exists()


def test_a_second_thread_is_refused(tmp_path):
    config = tiny_config(tmp_path, model="vae")
    data, _, _ = build(config)
    refused = []

    class Second(type(data)):
        def batch(self, index):
            if index == 5:
                thread = threading.Thread(target=attempt)
                thread.start()
                thread.join()
            return super().batch(index)

    def attempt():
        try:
            run(config)
        except ParameterError as error:
            refused.append(str(error))

    data.__class__ = Second
    assert len(run(config, data).history) == 4
    assert len(refused) == 1
    assert re.search(refusal(config.run_dir, os.getpid()), refused[0])


def test_a_run_that_ended_in_an_error_holds_nothing(tmp_path):
    config = tiny_config(tmp_path)
    data, _, _ = build(config)
    fails = type(data)(data.density, data.batch_size, data.seed, data.device)
    fails.batch = lambda index: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(config, fails)
    assert not (tmp_path / OWNER).exists()
    assert len(run(config).history) == 4


def test_one_member_that_is_being_trained_keeps_the_ensemble_from_starting(tmp_path):
    members = [tiny_config(tmp_path / str(k), seed=k) for k in range(3)]
    with Holder(members[1]) as pid:
        with pytest.raises(ParameterError, match=refusal(members[1].run_dir, pid)):
            train_ensemble(members)
        assert load_checkpoint(tmp_path / "0") is load_checkpoint(tmp_path / "2") is None
        with locked([members[0].run_dir, members[2].run_dir]):  # those before it were let go
            pass


def test_a_member_of_an_ensemble_is_not_trained_alone(tmp_path):
    run_dirs = [str(tmp_path / str(k)) for k in range(2)]
    listener, held = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=hold, args=(run_dirs, held))
    process.start()
    listener.recv()
    for run_dir in run_dirs:
        with pytest.raises(ParameterError, match=refusal(run_dir, process.pid)):
            run(tiny_config(run_dir))
    process.kill()
    process.join()
    assert len(run(tiny_config(run_dirs[0])).history) == 4


def test_decoding_processes_of_a_killed_run_hold_nothing(tmp_path, monkeypatch):
    """They live on for some seconds, as forks of the process that held the folder."""
    for i in range(20):
        save(tmp_path / "images" / f"{i:02d}.png", 5 * i)
    small = {
        "dataset": "folder",
        "data_dir": str(tmp_path / "images"),
        "resolution": 16,
        "batch_size": 4,
        "widths": (2, 2),
    }
    small |= {"workers": 2, "latent_dim": 2, "iterations": 4, "evaluation_samples": 2}
    listener, held = FORKED.Pipe(duplex=False)
    process = FORKED.Process(
        target=stop_while_decoding, args=(tiny_config(tmp_path / "run", **small), held)
    )
    process.start()
    listener.recv()
    process.kill()
    process.join()
    monkeypatch.setattr(images, "MEMORY_LIMIT", 0)
    run(tiny_config(tmp_path / "run", **small))
    assert load_checkpoint(tmp_path / "run").meta["iteration"] == 4
