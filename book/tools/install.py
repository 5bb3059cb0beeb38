"""Install the wheel with each extra into an empty environment, and do there what the extra is for.

usage: python book/tools/install.py [EXTRA ...]    without a name all; "bare" is the wheel alone
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRAINING = """
from asintrovae import RunConfig, build_data, build_model, build_objective, train
config = RunConfig(iterations=20, run_dir="run", device="cpu")
data = build_data(config)
result = train(build_model(config, data.shape), build_objective(config), data, config)
assert result.history[-1]["iteration"] == 20
"""
TRAINED = """
from asintrovae import load_pretrained, pretrained, sample
for row in pretrained().rows:
    assert sample(load_pretrained(row["name"]), 16, seed=0).isfinite().all()
"""
HUB = """
from asintrovae.hub import load_from_hub, save_to_hub_folder
save_to_hub_folder("vae-mnist", "shared")
load_from_hub("shared")
"""
TYPED = """
from asintrovae import RunConfig
reveal_type(RunConfig().iterations)
RunConfig().warmup_iterations("a")
"""
GRID = """
notebook: {notebook}
run_dir: runs
fixed: {{iterations: 20, widths: [8], batch_size: 16, evaluation_samples: 100, device: cpu}}
seeds: [0, 1]
"""


class Environment:
    """An empty virtual environment with the wheel in it, and a folder to work in."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        self.folder, self.programs = folder, folder / "environment" / "bin"
        venv.create(folder / "environment", with_pip=True)
        self.install(f"{wheel}[{extra}]" if extra else str(wheel))

    def install(self, *requirements: str) -> None:
        """Install what pip is given."""
        self.call("python", "-m", "pip", "install", "-q", *requirements)

    def call(self, program: str, *arguments: str, status: int = 0) -> str:
        """Return what a program of the environment prints; RuntimeError for another exit status."""
        command = [str(self.programs / program), *arguments]
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=self.folder, env=own, text=True, **streams)
        if done.returncode != status:
            raise RuntimeError(
                f"{' '.join(command)[:200]} ended with {done.returncode}, "
                f"not {status}:\n{done.stdout}"
            )
        return str(done.stdout)


def check_bare(here: Environment) -> None:
    """Training works, trained models draw, and mypy sees the types of the package."""
    here.call("python", "-c", TRAINING)
    here.call("python", "-c", TRAINED)
    here.install("mypy")
    (here.folder / "user.py").write_text(TYPED)
    said = here.call("mypy", "--strict", "user.py", status=1)
    for part in ('Revealed type is "int"', "user.py:4: error: Too many arguments"):
        if part not in said.replace("builtins.int", "int"):
            raise RuntimeError(f"mypy sees no types: {said}")


def check_sweep(here: Environment) -> None:
    """A grid of two points runs and has a table."""
    grid = here.folder / "grid.yaml"
    grid.write_text(GRID.format(notebook=ROOT / "book" / "training" / "toy.ipynb"))
    here.call("asintrovae-sweep", "grid.yaml", "--workers", "1")
    rows = (here.folder / "runs" / "table.csv").read_text().splitlines()[1:]
    if [row.split(",")[:2] for row in rows] != [["0", "finished"], ["1", "finished"]]:
        raise RuntimeError(f"the table has other rows than two finished ones: {rows}")


def check_fid(here: Environment) -> None:
    """The command knows its options, and InceptionV3 lacks nothing but its weights."""
    here.call("python", "-m", "asintrovae.evaluation.check_fid", "--help")
    (here.folder / "weights.pth").write_bytes(b"no weights")
    said = here.call(
        "python",
        "-m",
        "asintrovae.evaluation.check_fid",
        "mnist-subset",
        "--fid-weights",
        "weights.pth",
        status=1,
    )
    if "holds no weights of FID's InceptionV3" not in said:
        raise RuntimeError(f"another fault than the weights: {said}")


def check_hub(here: Environment) -> None:
    """A trained model goes through a folder of the Hub."""
    here.call("python", "-c", HUB)


def check_book(here: Environment) -> None:
    """The programs that build the book start."""
    for program in ("jupyter-book", "jupytext", "papermill"):
        here.call(program, "--version")


def check_test(here: Environment) -> None:
    """pytest starts with the plugins that the suite names, and finds the tests."""
    here.call(
        "python",
        "-m",
        "pytest",
        "-q",
        "--collect-only",
        "-n",
        "0",
        "--nbval",
        str(ROOT / "tests" / "theory" / "test_gaussian.py"),
    )


CHECKS = {
    "bare": check_bare,
    "sweep": check_sweep,
    "fid": check_fid,
    "hub": check_hub,
    "book": check_book,
    "test": check_test,
}


@contextmanager
def built() -> Iterator[Path]:
    """The wheel of the project as it is now."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, str(ROOT)]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        yield wheel


def main() -> None:
    """Command line."""
    extras = sys.argv[1:] or list(CHECKS)
    if unknown := set(extras) - set(CHECKS):
        sys.exit(f"install.py: unknown extra {sorted(unknown)[0]!r}; choose of {', '.join(CHECKS)}")
    with built() as wheel:
        for extra in extras:
            with tempfile.TemporaryDirectory() as folder:
                CHECKS[extra](Environment(Path(folder), wheel, "" if extra == "bare" else extra))
                print(f"{extra}: installed and works", flush=True)
                shutil.rmtree(Path(folder) / "environment")


if __name__ == "__main__":
    main()
