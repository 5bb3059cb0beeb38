"""A rehearsal of Colab: an environment without this checkout, an empty folder, the notebook alone, and no network."""

import functools
import os
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import ROOT

CHAPTERS = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
NO_NETWORK = """
import socket

def refuse(self, address):
    raise OSError(f"no network in this rehearsal: {address}")

class Cut(socket.socket):
    def connect(self, address):
        (super().connect if self.family == socket.AF_UNIX else lambda a: refuse(self, a))(address)

    connect_ex = connect

socket.socket = Cut
"""
RUN = """
import sys
from pathlib import Path

import nbclient
import nbformat
from own_sockets import own_sockets

path = Path(sys.argv[1])
notebook = nbformat.read(path, as_version=4)
resources = {"metadata": {"path": sys.argv[2]}}
options = {"timeout": 600, "record_timing": False, "kernel_name": "python3", "config": own_sockets()}
nbclient.NotebookClient(notebook, resources=resources, **options).execute()
nbformat.write(notebook, path)
"""


@functools.cache
def cut_off():
    """Command that runs another without any network, where this machine lets us; else a guard in Python has to do."""
    command = [shutil.which("unshare") or "", "--net", "--map-root-user"]
    works = command[0] and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []


class Rehearsal:
    """A virtual environment that sees the packages installed here, without those that are installed as a checkout."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        self.folder, self.python = folder, folder / "bin" / "python"
        (self.site,) = folder.glob("lib/python*/site-packages")
        (folder / "installed").mkdir()
        folders = [Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        for entry in (entry for path in folders for entry in path.iterdir()):
            link, checkout = folder / "installed" / entry.name, entry.name.startswith("asintrovae") or entry.suffix == ".pth"
            if not checkout and not link.is_symlink():
                link.symlink_to(entry)
        (self.site / "installed.pth").write_text(f"{folder / 'installed'}\nimport no_network\n")
        (self.site / "no_network.py").write_text(NO_NETWORK)
        (self.site / "run_notebook.py").write_text(RUN)
        shutil.copy(ROOT / "tests" / "own_sockets.py", self.site)

    def run(self, *arguments, **environment):
        """Python of the rehearsal, with no network, and nothing of this checkout or this user in its way."""
        own = {"PYTHONNOUSERSITE": "1", "PIP_NO_INDEX": "1", "ASINTROVAE_DATA": "", "OMP_NUM_THREADS": "1", **environment}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "PIP_"))}
        command = [*cut_off(), str(self.python), *map(str, arguments)]
        return subprocess.run(command, cwd=self.folder, env={**kept, **own}, capture_output=True, text=True)

    def execute(self, notebook, folder, **environment):
        """Execute it with its kernel in folder; the notebook with its outputs."""
        path = self.folder / "notebook.ipynb"
        nbformat.write(notebook, path)
        result = self.run("-m", "run_notebook", path, folder, **environment)
        assert result.returncode == 0, result.stderr[-3000:]
        return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """The rehearsal with the built wheel, installed by pip, which also looks whether all it requires is there."""
    folder = tmp_path_factory.mktemp("colab")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    rehearsal = Rehearsal(folder / "venv")
    result = rehearsal.run("-m", "pip", "install", "-q", *folder.glob("*.whl"))
    assert result.returncode == 0, result.stderr
    return rehearsal


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_runs_with_the_wheel_alone(path, colab, tmp_path):
    """From an empty folder. Then every cell once more from the last to the first, as readers do."""
    notebook = nbformat.read(path, as_version=4)
    where = nbformat.v4.new_code_cell("print(asintrovae.__file__)")
    again = [nbformat.v4.new_code_cell(cell.source) for cell in reversed(code_cells(notebook))]
    cells = code_cells(notebook)
    notebook.cells = [*cells, where, *again]
    done = colab.execute(notebook, tmp_path)
    assert done.cells[len(cells)].outputs[0].text.startswith(str(colab.site))
    assert not list(tmp_path.iterdir()), "the chapter leaves files behind"


def test_there_is_no_network_in_the_rehearsal(colab):
    """Something listens on this machine, and is not reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address, timeout=5).close()
        result = colab.run("-c", f"import socket; socket.create_connection({address!r}, timeout=5)")
    assert result.returncode == 1
    assert "OSError" in result.stderr or "Error: [Errno" in result.stderr


def test_the_set_up_cell_installs_what_is_missing(tmp_path):
    """The address of the project leads to a copy of this checkout here; everything else is what a reader's machine does."""
    from test_repository import repository

    source = tmp_path / "source"
    for path in [*repository.texts(ROOT), *(ROOT / "data").rglob("*.*")]:
        if path.is_file() and (path.suffix != ".ipynb" or path.parent.name == "book"):
            (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / path.relative_to(ROOT))
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=source, check=True, capture_output=True)
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    redirect = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{source.as_uri()}.insteadOf", "GIT_CONFIG_VALUE_0": url}
    rehearsal = Rehearsal(tmp_path / "venv")
    absent = rehearsal.run("-c", "import asintrovae")
    assert "ModuleNotFoundError: No module named 'asintrovae'" in absent.stderr
    (tmp_path / "empty").mkdir()
    notebook = nbformat.read(CHAPTERS[0], as_version=4)
    notebook.cells = [cell for cell in code_cells(notebook) if "setup" in cell.metadata.get("tags", [])]
    notebook.cells.append(nbformat.v4.new_code_cell("print(asintrovae.__file__)"))
    no_isolation = {"PIP_NO_BUILD_ISOLATION": "0"}  # pip's way of saying yes: hatchling is taken from here
    done = rehearsal.execute(notebook, tmp_path / "empty", **redirect, **no_isolation)
    assert done.cells[-1].outputs[0].text.startswith(str(rehearsal.site))
