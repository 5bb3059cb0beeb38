"""Kills, faults and bad input: is a run ever lost?

Writes data/reliability/chaos.json; `make chaos` runs it.

Every model on points and on images is killed at random moments, one run at every line of a save,
and three runs of two processes, of which either is killed. Then come the tests of faults and locks,
and all tests that bad input is refused.
"""

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pytest
from killing import (
    Tally,
    compare,
    config_of,
    kill_at_every_line,
    kill_at_random,
    lines_of_a_save,
    whole_run,
)
from records_of_tests import measured_on, write

from asintrovae.config import ModelName

TESTS = Path(__file__).resolve().parents[1]
POINTS = {"ema": 0.9, "milestones": [30], "kl_annealing": 0.5}
IMAGES = {
    "dataset": "mnist-subset",
    "widths": [2, 4],
    "latent_dim": 4,
    "iterations": 30,
    "ema": 0.9,
    "checkpoint_every": 3,
}
IMAGES |= {"channels_last": True}
KINDS = {"points": POINTS, "images": IMAGES}


def kill_everything(folder: Path) -> Tally:
    """All kills, each run compared with one that was left alone."""
    tally = Tally()
    for seed, model in enumerate(get_args(ModelName)):
        for kind, parameters in KINDS.items():
            name = f"{model}-{kind}"
            seconds = whole_run(config_of(folder / name, model=model, **parameters))
            kill_at_random(
                config_of(folder / f"{name}-killed", model=model, **parameters),
                5,
                seconds / 3,
                seed,
                tally,
            )
            compare(folder / f"{name}-killed", folder / name, tally)
    lines = lines_of_a_save(folder)
    small = {"iterations": 3 * lines + 3, "checkpoint_every": 1}
    whole_run(config_of(folder / "lines", **small))
    kill_at_every_line(config_of(folder / "lines-killed", **small), range(1, lines + 1), tally)
    compare(folder / "lines-killed", folder / "lines", tally)
    for seed, (model, parameters) in enumerate(
        [("as_intro", {"c": 0.5}), ("as_intro", {**IMAGES, "c": 0.5}), ("wgan_gp", {})]
    ):
        name = f"{model}-{seed}-two"
        seconds = whole_run(config_of(folder / name, model=model, devices=2, **parameters))
        kill_at_random(
            config_of(folder / f"{name}-killed", model=model, devices=2, **parameters),
            4,
            seconds / 3,
            seed,
            tally,
        )
        compare(folder / f"{name}-killed", folder / name, tally)
    return tally


class Count:
    """A plugin of pytest: how many tests passed, and which did not."""

    def __init__(self) -> None:
        self.passed, self.failed = 0, []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each stage of each test."""
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid)


def count(*arguments: str) -> Count:
    """Run tests."""
    found = Count()
    pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[found])
    return found


def main() -> int:
    """Command line; 1 if anything was lost."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_everything(Path(folder))
    here = TESTS / "reliability"
    faults = count(str(here / "test_locks.py"), *map(str, here.glob("test_*faults.py")))
    named = "refused or bad or wrong or do_not_fit"
    slow = ("test_chapter", "test_notebooks", "test_book")
    others = (path for path in TESTS.rglob("test_*.py") if path.parent != here)
    inputs = count(
        "-k",
        named,
        *(str(path) for path in others if not path.stem.startswith(slow)),
    )
    fields = count(
        str(here / "test_parameters.py"), str(here / "test_numbers.py")
    )  # every parameter, and extreme numbers
    lost = [*tally.lost, *faults.failed, *inputs.failed, *fields.failed]
    bad_inputs = inputs.passed + fields.passed
    record = {**asdict(tally), "faults": faults.passed, "bad_inputs": bad_inputs, "lost": lost}
    print(
        f"{tally.kills} kills of {tally.runs} runs ({tally.kills_in_a_save} inside a save, "
        f"{tally.kills_of_one_of_two_processes} of one of two processes), {tally.resumes} resumes, "
        f"{faults.passed} faults tried, {bad_inputs} bad inputs tried, "
        f"lost: {len(lost)} {' '.join(lost)}"
    )
    print(
        write(
            "chaos.json", {**record, "seconds": round(time.monotonic() - started), **measured_on()}
        )
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
