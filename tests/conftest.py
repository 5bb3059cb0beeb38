"""Shared set-up: one thread per worker (pytest-xdist runs as many workers as cores) and small runs
for every model."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from asintrovae import RunConfig, build_data, build_model, build_objective

torch.set_num_threads(1)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as a shell starts what runs in the background: tests interrupt runs
    signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parent.parent
TINY = {
    "iterations": 12,
    "warmup": 2,
    "batch_size": 16,
    "widths": [4],
    "evaluation_samples": 64,
    "log_every": 4,
}
MODELS = ["vae", "intro", "soft_intro", "as_intro", "wgan_gp"]


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Networks and draws of a test do not depend on which tests this worker ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20220723)


@pytest.fixture
def mnist_root() -> Path:
    """Folder of the full data sets, where the machine has them."""
    root = os.environ.get("ASINTROVAE_DATA")
    if root is None or not (Path(root) / "MNIST" / "raw").exists():
        pytest.skip("ASINTROVAE_DATA names no folder with MNIST/raw: the full data set is not here")
    return Path(root)


def tiny_config(run_dir: Path, **parameters: object) -> RunConfig:
    """A toy run of a second; anything can be overridden."""
    small = {
        "iterations": 20,
        "widths": (16,),
        "batch_size": 32,
        "log_every": 5,
        "checkpoint_every": 10,
        "device": "cpu",
    }
    return RunConfig(**{**small, "evaluation_samples": 200, "run_dir": str(run_dir), **parameters})


def build(config: RunConfig):
    """Data, model and objective of a run."""
    data = build_data(config)
    return data, build_model(config, data.shape), build_objective(config)


@pytest.fixture(scope="session")
def small_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built pages of a book of two pages."""
    from small_book import build_small_book

    return build_small_book(tmp_path_factory.mktemp("small") / "book")


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory):
    """The machine of a reader, with the built wheel alone; the workers of pytest-xdist share it."""
    from rehearsal import wheel_alone

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / "reader.lock"):
        return wheel_alone(shared / "reader")


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both training notebooks after a run of a dozen iterations each, and of the runs.

    papermill has executed them from that folder, by their absolute paths.
    """
    import papermill
    from own_sockets import own_sockets

    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("toy", "images"):
            papermill.execute_notebook(
                ROOT / "book" / "training" / f"{name}.ipynb",
                f"{name}.ipynb",
                {**TINY, "run_dir": str(folder / name)},
                progress_bar=False,
                config=own_sockets(),
            )
    return folder


CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: `make browser` installs it where it may")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()
