"""Threads of a run: the processors it may use, and one where its work is too small to share."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import build, tiny_config

from asintrovae import RunConfig, evaluate, save_record, train
from asintrovae.build import threads_for
from asintrovae.evaluation import evaluate as metrics
from asintrovae.evaluation.check_fid import main as fid
from asintrovae.running import loop as training
from asintrovae.running.processes import run_processes
from asintrovae.sweeps.ensemble import train_ensemble
from asintrovae.threads import processors, torch_threads

IMAGES = {"dataset": "mnist-subset", "latent_dim": 8, "device": "cpu"}


def files(root, **content):
    """Files below root; __ in a name is a slash, and a dot of the name is given as DOT."""
    for name, text in content.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def sixteen(monkeypatch):
    """A machine of sixteen processors on which nobody has set a number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr("asintrovae.build.processors", lambda: 16)
    with torch_threads(16):
        yield


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, 16),
        ({"proc__self__cgroup": "0::/\n"}, 16),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpuDOTmax": "100000 100000\n"}, 1),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpuDOTmax": "max 100000\n"}, 16),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpuDOTmax": "250000 100000\n"}, 2),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__cpuDOTmax": "20000 100000\n"}, 1),
        (
            {"proc__self__cgroup": "0::/a/b\n", "sys__fs__cgroup__a__cpuDOTmax": "300000 100000\n"},
            3,
        ),
        ({"proc__self__cgroup": "0::/a\n", "sys__fs__cgroup__a__cpuDOTmax": "400000 100000\n"}, 4),
        (
            {
                "proc__self__cgroup": "0::/not/here\n",
                "sys__fs__cgroup__cpuDOTmax": "200000 100000\n",
            },
            2,
        ),
        (
            {
                "proc__self__cgroup": "3:cpuset:/\n2:cpu,cpuacct:/a\n",
                "sys__fs__cgroup__cpu,cpuacct__a__cpuDOTcfs_quota_us": "150000\n",
                "sys__fs__cgroup__cpu,cpuacct__a__cpuDOTcfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc__self__cgroup": "1:cpu:/a\n",
                "sys__fs__cgroup__cpu__cpuDOTcfs_quota_us": "-1\n",
                "sys__fs__cgroup__cpu__cpuDOTcfs_period_us": "100000\n",
            },
            16,
        ),
        ({"proc__self__cgroup": "nonsense\n0::/\n", "sys__fs__cgroup__cpuDOTmax": "nonsense"}, 16),
    ],
)
def test_processors_are_those_of_the_affinity_or_the_quota(tmp_path, sixteen, content, expected):
    files(tmp_path, **content)
    assert processors(tmp_path) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_on_one_processor_computes_with_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "import torch; torch.set_num_threads(8)\n"
        "from asintrovae import RunConfig\n"
        "from asintrovae.build import threads_for\n"
        "from asintrovae.threads import processors\n"
        "print(processors(), threads_for(RunConfig(dataset='mnist', latent_dim=8, batch_size=512)))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout == "1 1\n"


def test_what_is_large_enough_is_shared_by_all_processors(sixteen, monkeypatch):
    assert threads_for(RunConfig(**IMAGES, widths=(64, 128), batch_size=128)) == 16
    assert threads_for(RunConfig(**IMAGES, widths=(8, 16), batch_size=8)) == 1
    assert threads_for(RunConfig(**IMAGES, widths=(8, 16), batch_size=8), 1000) == 16
    assert threads_for(RunConfig(**IMAGES, widths=(64, 128), batch_size=128, devices=4)) == 4
    assert threads_for(RunConfig(**IMAGES, widths=(64, 128), batch_size=128, devices=32)) == 1
    assert threads_for(RunConfig(widths=(256, 256, 256), batch_size=4096)) == 1


def test_a_number_that_is_given_stays(sixteen, monkeypatch):
    large = {**IMAGES, "widths": (64, 128), "batch_size": 128}
    assert threads_for(RunConfig(threads=3)) == 3
    with torch_threads(5):  # a program's own torch.set_num_threads
        assert threads_for(RunConfig(**large)) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with torch_threads(7):
        assert threads_for(RunConfig(**large)) == threads_for(RunConfig()) == 7
    assert threads_for(RunConfig(threads=3)) == 3


def test_training_and_evaluation_compute_with_it_and_leave_torch_as_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("asintrovae.build.processors", lambda: 2)
    seen = []
    monkeypatch.setattr(training.Loop, "run", lambda *_: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(metrics, "measured", lambda *_: seen.append(torch.get_num_threads()))
    with torch_threads(3):
        for threads in (None, 2):
            config = tiny_config(tmp_path / str(threads), threads=threads)
            data, model, objective = build(config)
            result = train(model, objective, data, config)
            evaluate(model, data, config)
            train_ensemble([tiny_config(tmp_path / f"{threads} together", threads=threads)])
            assert save_record(config, result, {})["threads"] == (threads or 1)
            assert torch.get_num_threads() == 3
        with pytest.raises(SystemExit):
            fid(["mnist-subset", "--fid-weights", "nowhere"])
        assert torch.get_num_threads() == 3
    assert seen == [1, 1, 1, 2, 2, 2]


def test_an_error_leaves_torch_as_it_was():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1) as found:
        print(found, torch.get_num_threads(), 1 / 0)
    assert torch.get_num_threads() == before
    with torch_threads(before + 1) as found:
        assert (found, torch.get_num_threads()) == (before, before + 1)


@pytest.mark.parametrize(("given", "expected"), [(None, "4"), ("2", "2")])
def test_processes_of_a_run_get_a_share_each(tmp_path, monkeypatch, given, expected):
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    seen = {}

    def note(command, env=None, **_):
        seen.update(env)
        raise FileNotFoundError("not started")

    monkeypatch.setattr(subprocess, "Popen", note)
    with pytest.raises(FileNotFoundError, match="not started"):
        run_processes(tiny_config(tmp_path, devices=2), threads=4)
    assert seen["OMP_NUM_THREADS"] == expected
