"""Runs in processes of their own, which are killed: by SIGKILL, at random moments and at every line
of a save.

The processes are forked from one that has imported everything and computed nothing, so that one
costs little.
"""

import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from asintrovae import RunConfig, build_data, build_model, build_objective, files, train
from asintrovae.data import images
from asintrovae.running import checkpoint
from asintrovae.running.checkpoint import Checkpoint, load_checkpoint
from asintrovae.running.lock import locked
from asintrovae.running.processes import fabric_for

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["asintrovae.sweeps.ensemble", "lightning_fabric.plugins.environments.lightning"]
)
SAVING = [checkpoint.save_checkpoint.__code__, files.write_atomically.__code__]
SMALL = {
    "iterations": 60,
    "widths": [8],
    "batch_size": 16,
    "log_every": 1,
    "checkpoint_every": 4,
    "device": "cpu",
    "threads": 1,
}


@dataclass
class Tally:
    """What was done to runs, and what came of it."""

    kills: int = 0
    kills_in_a_save: int = 0
    kills_of_one_of_two_processes: int = 0
    resumes: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list)


def config_of(run_dir: Path, **parameters: Any) -> RunConfig:
    """A small run; anything can be overridden."""
    return RunConfig(**{**SMALL, "run_dir": str(run_dir), **parameters})


def train_here(
    config: RunConfig,
    begun: Connection | None = None,
    line: int = 0,
    group: dict[str, str] | None = None,
) -> None:
    """In a process of its own: train; line: of the third save, to be killed there; group: the
    environment torchrun gives."""
    multiprocessing.set_start_method(
        "fork", force=True
    )  # for workers that decode, as in a program that nobody forked
    images.MEMORY_LIMIT = images.MEMORY_LIMIT * (config.dataset != "folder")
    os.environ.update(group or {})
    log = os.open(f"{config.run_dir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is of the system, and would outlive the kill
    if group:
        fabric_for(config)  # as asintrovae.running.worker does
    data = build_data(config)
    model, objective = build_model(config, data.shape), build_objective(config)
    if line:
        kill_at(line)
    if begun is not None:
        begun.send(None)
    train(model, objective, data, config)


def kill_at(line: int) -> None:
    """Kill this process before the given line, counted from 1, of its third save; where content is
    written, half of it is."""
    seen = {"saves": 0, "lines": 0}

    def at_line(frame: Any, event: str, _: Any) -> Any:
        if event == "line" and seen["saves"] == 3:
            seen["lines"] += 1
            if seen["lines"] == line:
                file, content = (frame.f_locals.get(name) for name in ("file", "content"))
                if file is not None and not file.closed:
                    file.write(content[: len(content) // 2])
                    file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return at_line

    def at_call(frame: Any, event: str, _: Any) -> Any:
        seen["saves"] += frame.f_code is SAVING[0]
        return at_line if frame.f_code in SAVING else None

    sys.settrace(at_call)


def lines_of_a_save(folder: Path) -> int:
    """How many lines a save executes."""
    count = 0

    def at_line(_: Any, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "line"
        return at_line

    saved = Checkpoint({"model.w": torch.ones(3)}, {"iteration": 0})
    checkpoint.save_checkpoint(folder, saved)
    before = sys.gettrace()
    sys.settrace(lambda frame, *_: at_line if frame.f_code in SAVING else None)
    try:
        checkpoint.save_checkpoint(folder, saved)
    finally:
        sys.settrace(before)
    return count


class Forked:
    """A run under way in a forked process; with devices=2 in two, or in those that `train` launches
    from the first.

    line: of the third save, to be killed there.
    """

    def __init__(self, config: RunConfig, line: int = 0, launched: bool = False) -> None:
        self.config, self.processes, listeners = config, [], []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        count = 1 if launched else config.devices
        everywhere = {
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        everywhere |= {"TORCHELASTIC_RUN_ID": "killed", "GROUP_RANK": 0}
        for rank in range(count):
            listener, begun = FORKED.Pipe(duplex=False)
            group = {
                name: str(value)
                for name, value in {**everywhere, "RANK": rank, "LOCAL_RANK": rank}.items()
            }
            arguments = (config, begun, line, group if count > 1 else None)
            self.processes.append(FORKED.Process(target=train_here, args=arguments))
            self.processes[-1].start()
            begun.close()
            listeners.append(listener)
        for listener in listeners:
            with suppress(EOFError):  # it failed; its exit status says so
                listener.recv()
        self.started = time.monotonic()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until one of the processes has ended, or for some seconds; whether one has."""
        return bool(wait([process.sentinel for process in self.processes], seconds))

    def kill(self, rank: int) -> bool:
        """SIGKILL to one process, whose fellow is then ended as a launcher would; whether it was
        still alive."""
        self.processes[rank].kill()
        self.processes[rank].join()
        for process in self.processes:
            process.kill()
            process.join()
        return self.processes[rank].exitcode == -signal.SIGKILL

    def wait_until_it_trains(self) -> None:
        """Wait until the first process, or one that it has launched, has saved the first checkpoint
        of a new run."""
        for _ in range(12_000):
            if Path(self.config.run_dir, checkpoint.CURRENT).exists():
                return
            assert not self.wait(0.01), Path(f"{self.config.run_dir}.log").read_text()[-3000:]
        raise TimeoutError("it did not begin within two minutes")

    def signal(self, number: int, rank: int = 0, family: bool = False) -> None:
        """Send a signal to one process as soon as it trains, and to all below it."""
        self.wait_until_it_trains()
        process = psutil.Process(self.processes[rank].pid)
        for member in [*process.children(recursive=True), process] if family else [process]:
            member.send_signal(number)

    def end(self) -> list[int | None]:
        """Wait for the end; the exit statuses.

        What has not ended after ten minutes heard no signal, and is killed.
        """
        for process in self.processes:
            process.join(600)
            process.kill()
            process.join()
        return [process.exitcode for process in self.processes]


def whole_run(config: RunConfig) -> float:
    """Train without interruption; the seconds it took."""
    forked = Forked(config)
    assert forked.end() == [0] * config.devices, Path(f"{config.run_dir}.log").read_text()[-3000:]
    return time.monotonic() - forked.started


def kill_at_random(config: RunConfig, kills: int, seconds: float, seed: int, tally: Tally) -> None:
    """Train config, killed so many times, each after up to so many seconds, and resumed each time;
    at last left to its end."""
    chance, run_dir = random.Random(seed), Path(config.run_dir)
    killed = 0
    while killed < kills:
        left = set(run_dir.glob("*.tmp"))
        forked = Forked(config)
        forked.wait(chance.uniform(0, seconds))
        if not forked.kill(
            chance.randrange(config.devices)
        ):  # it had come to its end: begin again, kill earlier
            shutil.rmtree(run_dir)
            seconds /= 2
            continue
        killed, tally.kills, tally.resumes = killed + 1, tally.kills + 1, tally.resumes + 1
        tally.kills_of_one_of_two_processes += config.devices > 1
        tally.kills_in_a_save += bool(set(run_dir.glob("*.tmp")) - left)
    whole_run(config)


def kill_at_every_line(config: RunConfig, lines: Iterable[int], tally: Tally) -> None:
    """Train config, killed before each of these lines of a save, and resumed each time; at last
    left to its end."""
    reached = 0
    for line in lines:
        forked = Forked(config, line)
        assert forked.end() == [-signal.SIGKILL], f"line {line} of a save was not reached"
        tally.kills, tally.kills_in_a_save, tally.resumes = (
            tally.kills + 1,
            tally.kills_in_a_save + 1,
            tally.resumes + 1,
        )
        saved = load_checkpoint(Path(config.run_dir))
        assert saved is not None
        assert saved.meta["iteration"] >= reached
        reached = saved.meta["iteration"]
    whole_run(config)


def compare(one: Path, other: Path, tally: Tally) -> None:
    """Note a run as lost if its weights, optimiser or history differ in a bit from another's."""
    tally.runs += 1
    a, b = load_checkpoint(one), load_checkpoint(other)
    assert a is not None
    assert b is not None
    same = a.tensors.keys() == b.tensors.keys() and all(
        torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors
    )
    if (
        not same
        or a.meta["history"] != b.meta["history"]
        or a.meta["iteration"] != b.meta["iteration"]
    ):
        tally.lost.append(str(one))


def hold(run_dirs: list[str], held: Connection) -> None:
    """In a process of its own: hold these folders until it is killed."""
    with locked(run_dirs):
        held.send(None)
        time.sleep(3600)


def stop_while_decoding(config: RunConfig, held: Connection) -> None:
    """In a process of its own: train on images decoded as they are needed, and stand still at the
    third batch."""
    multiprocessing.set_start_method("fork", force=True)
    images.MEMORY_LIMIT = 0
    data = build_data(config)

    class Held:
        def batch(self, index: int) -> torch.Tensor:
            x = data.batch(index)
            if index == 2:
                held.send(None)
                time.sleep(3600)
            return x

    train(build_model(config, data.shape), build_objective(config), Held(), config)
