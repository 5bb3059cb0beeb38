"""A machine of a reader: an environment without this checkout, an empty folder, and no network."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import nbformat
from conftest import ROOT

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
options = {"timeout": 600, "record_timing": False, "kernel_name": "python3"}
options["config"] = own_sockets()
nbclient.NotebookClient(notebook, resources=resources, **options).execute()
nbformat.write(notebook, path)
"""


@functools.cache
def cut_off():
    """Command that runs another without any network, where this machine lets us; else a guard in
    Python has to do."""
    command = [shutil.which("unshare") or "", "--net", "--map-root-user"]
    works = command[0] and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []


class Rehearsal:
    """A virtual environment that sees the packages installed here, without those that are installed
    as a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, folder / "bin" / "python"
        if not folder.exists():
            self.make()
        (self.site,) = folder.glob("lib/python*/site-packages")

    def make(self) -> None:
        """Create it in its folder."""
        folder = self.folder
        venv.create(folder, symlinks=True, with_pip=False)
        (site,) = folder.glob("lib/python*/site-packages")
        (folder / "installed").mkdir()
        folders = [
            Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))
        ]
        for entry in (entry for path in folders for entry in path.iterdir()):
            link, checkout = (
                folder / "installed" / entry.name,
                entry.name.startswith("asintrovae") or entry.suffix == ".pth",
            )
            if not checkout and not link.is_symlink():
                link.symlink_to(entry)
        (site / "installed.pth").write_text(f"{folder / 'installed'}\nimport no_network\n")
        (site / "no_network.py").write_text(NO_NETWORK)
        (site / "run_notebook.py").write_text(RUN)
        shutil.copy(ROOT / "tests" / "helpers" / "own_sockets.py", site)

    def run(self, *arguments, cwd=None, **environment):
        """Python of the rehearsal, with no network, and nothing of this checkout or this user in
        its way."""
        own = {
            "PYTHONNOUSERSITE": "1",
            "PIP_NO_INDEX": "1",
            "ASINTROVAE_DATA": "",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV", "PIP_"))
        }
        command = [*cut_off(), str(self.python), *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd or self.folder, env={**kept, **own}, capture_output=True, text=True
        )

    def execute(self, notebook, folder, **environment):
        """Execute it with its kernel in folder; the notebook with its outputs."""
        with tempfile.TemporaryDirectory() as other:
            path = Path(other) / "notebook.ipynb"
            nbformat.write(notebook, path)
            result = self.run("-m", "run_notebook", path, folder, **environment)
            assert result.returncode == 0, result.stderr[-3000:]
            return nbformat.read(path, as_version=4)


def wheel_alone(folder: Path) -> Rehearsal:
    """The rehearsal with the built wheel, installed by pip, which also looks whether all it
    requires is there."""
    made = (folder / "made").exists()
    rehearsal = Rehearsal(folder / "venv")
    if not made:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        result = rehearsal.run("-m", "pip", "install", "-q", *folder.glob("*.whl"))
        assert result.returncode == 0, result.stderr
        (folder / "made").touch()
    return rehearsal
