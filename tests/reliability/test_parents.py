"""A batch system signals the program it has started: papermill, a sweep, a Dask worker.

Its runs save.

Each test starts all its programs before it ends the first, since most of their time is imports.
"""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT

from asintrovae.running.checkpoint import CURRENT, load_checkpoint

pytestmark = pytest.mark.xdist_group("reliability")
NOTEBOOK = str(ROOT / "book" / "training" / "toy.ipynb")
ENDLESS = {"model": "vae", "iterations": 10**8, "checkpoint_every": 10**8, "log_every": 10**8}
ENDLESS |= {"widths": [8], "batch_size": 16, "threads": 1, "device": "cpu"}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


class Program:
    """A program in a session of its own that trains in run_dir until it is told to end."""

    def __init__(self, command, run_dir, folder):
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            env=ENVIRONMENT, cwd=folder, start_new_session=True, **pipes,
        )  # fmt: skip
        self.run_dir, self.family = run_dir, []

    def wait_until_it_trains(self):
        """Wait for the first checkpoint, of iteration 0; note all processes."""
        deadline = time.monotonic() + 180
        while not (self.run_dir / CURRENT).exists():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline, "no checkpoint after three minutes"
            time.sleep(0.1)
        self.family = psutil.Process(self.process.pid).children(recursive=True)

    def said(self):
        """What it and the processes it leaves behind say until the last of them has ended."""
        said = self.process.communicate(timeout=120)[1]
        assert not psutil.wait_procs(self.family, timeout=30)[1]
        return said

    @property
    def iteration(self):
        """Iterations that the checkpoint has kept."""
        return load_checkpoint(self.run_dir).meta["iteration"]

    def member(self, word):
        """The process whose command line holds a word."""
        (found,) = [process for process in self.family if word in process.cmdline()]
        return found


def papermill(folder, name, **parameters):
    run_dir = folder / name
    given = json.dumps({**ENDLESS, **parameters, "run_dir": str(run_dir)})
    command = ["papermill", "--no-progress-bar", NOTEBOOK, folder / f"{name}.ipynb", "-y", given]
    return Program(command, run_dir, folder)


def sweep(folder, name):
    grid = folder / f"{name}.yaml"
    axes = {"model": {"vae": {"model": "vae"}}}
    fixed = {key: value for key, value in ENDLESS.items() if key != "model"}
    content = {"notebook": NOTEBOOK, "run_dir": name, "fixed": fixed, "axes": axes, "seeds": [0]}
    grid.write_text(json.dumps(content))
    command = ["asintrovae.sweeps", grid, "--workers", "1"]
    return Program(command, folder / name / "vae" / "0", folder)


@pytest.fixture
def programs():
    """Programs by name; what a failed test leaves is ended."""
    started = {}
    yield started
    for program in started.values():
        for process in [*program.family, program.process]:
            if process.poll() is None if process is program.process else process.is_running():
                process.kill()


weekly = pytest.mark.weekly  # another signal on the same way: programs take seconds to start


@pytest.mark.parametrize(
    "names", [("SIGINT", "SIGKILL"), pytest.param(("SIGTERM", "kernel"), marks=weekly)]
)
def test_a_run_saves_when_papermill_is_ended_or_killed(tmp_path, programs, names):
    """SIGINT as a terminal sends it, to the group, or to the kernel alone; else to papermill."""
    for name in names:
        programs[name] = papermill(tmp_path, name)
    for name, program in programs.items():
        program.wait_until_it_trains()
        if name == "SIGINT":
            os.killpg(program.process.pid, signal.SIGINT)
        elif name == "kernel":
            program.member("ipykernel_launcher").send_signal(signal.SIGINT)
        else:
            program.process.send_signal(signal.Signals[name])
    for name, program in programs.items():
        said = program.said()
        assert f"run_dir='{program.run_dir}' has the checkpoint" in said, name
        if name == "kernel":
            assert program.process.returncode == 1
            assert "KeyboardInterrupt: SIGINT: stopped; " in said
        else:  # nbclient may see the kernel dead that it has ended itself
            assert "Traceback" not in said or "DeadKernelError: Kernel died" in said, name
        assert program.iteration > 0, name


@pytest.mark.parametrize(
    "names", [("SIGTERM", "SIGKILL"), pytest.param(("SIGINT", "worker"), marks=weekly)]
)
def test_the_runs_of_a_sweep_save_when_it_is_ended_or_killed(tmp_path, programs, names):
    """ "worker": it loses its Dask worker, and the run is begun again, after it has saved."""
    for name in names:
        programs[name] = sweep(tmp_path, name)
    for name, program in programs.items():
        program.wait_until_it_trains()
        if name == "SIGINT":
            os.killpg(program.process.pid, signal.SIGINT)
        elif name == "worker":
            program.member("--point").parent().kill()
            deadline = time.monotonic() + 60
            while program.iteration == 0:
                assert time.monotonic() < deadline, "nothing was saved"
                time.sleep(0.1)
            program.process.send_signal(signal.SIGTERM)
        else:
            program.process.send_signal(signal.Signals[name])
    for name, program in programs.items():
        said = program.said()
        assert program.iteration > 0, name
        if name != "SIGKILL":
            assert program.process.returncode == 130, name
            assert "interrupted; the same command goes on where this one was" in said, name
            assert "Traceback" not in said, name
