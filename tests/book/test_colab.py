"""A rehearsal of Colab: the notebook alone, in an environment without this checkout and without
network."""

import shutil
import socket
import subprocess

import nbformat
import pytest
import yaml
from conftest import ROOT
from rehearsal import Rehearsal

CHAPTERS = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
PAGES = sorted((ROOT / "book").glob("[a-z]*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.weekly
@pytest.mark.parametrize("path", CHAPTERS + PAGES, ids=lambda path: path.stem)
def test_cells_run_again_from_the_last_to_the_first(path, reader, tmp_path):
    """As readers do. Forwards they run, and are compared, in test_notebooks.py."""
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    again = [nbformat.v4.new_code_cell(cell.source) for cell in reversed(cells)]
    notebook.cells = [*cells, *again]
    reader.execute(notebook, tmp_path)


def test_the_rehearsal_has_the_package_from_the_wheel_and_no_network(reader):
    """Something listens on this machine, and is not reached."""
    where = reader.run("-c", "import asintrovae; print(asintrovae.__file__)").stdout
    assert where.startswith(str(reader.site))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address, timeout=5).close()
        result = reader.run(
            "-c", f"import socket; socket.create_connection({address!r}, timeout=5)"
        )
    assert result.returncode == 1
    assert "OSError" in result.stderr or "Error: [Errno" in result.stderr


def test_the_set_up_cell_installs_what_is_missing(tmp_path):
    """The address of the project leads to a copy of this checkout here; everything else is what a
    reader's machine does."""
    from test_repository import repository

    source = tmp_path / "source"
    for path in [*repository.texts(ROOT), *(ROOT / "data").rglob("*.*")]:
        if path.is_file() and (path.suffix != ".ipynb" or path.parent.name == "book"):
            (source / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / path.relative_to(ROOT))
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    tag = ["tag", repository.release()]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"], tag):
        subprocess.run(["git", *command], cwd=source, check=True, capture_output=True)
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    redirect = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{source.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": url,
    }
    rehearsal = Rehearsal(tmp_path / "venv")
    absent = rehearsal.run("-c", "import asintrovae")
    assert "ModuleNotFoundError: No module named 'asintrovae'" in absent.stderr
    (tmp_path / "empty").mkdir()
    notebook = nbformat.read(CHAPTERS[0], as_version=4)
    notebook.cells = [
        cell for cell in code_cells(notebook) if "setup" in cell.metadata.get("tags", [])
    ]
    notebook.cells.append(nbformat.v4.new_code_cell("print(asintrovae.__file__)"))
    no_isolation = {
        "PIP_NO_BUILD_ISOLATION": "0"
    }  # pip's way of saying yes: hatchling is taken from here
    done = rehearsal.execute(notebook, tmp_path / "empty", **redirect, **no_isolation)
    assert done.cells[-1].outputs[0].text.startswith(str(rehearsal.site))
