"""The rooms of the package: floors, imports that go down only, and no circle."""

import ast
import graphlib
import subprocess
import sys

import pytest
from conftest import ROOT

from asintrovae.running.provenance import meaning

PACKAGE = ROOT / "asintrovae"
FLOORS = (
    {"config", "devices", "files", "randomness", "collectives", "threads", "ranges"},
    {"theory", "data"},
    {"build"},
    {"evaluation", "running"},
    {"sweeps"},
    {"figures"},
    {"trained"},
    {"hub"},
)


def module_of(path):
    """asintrovae/theory/gaussian.py -> theory.gaussian"""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py") if path.parent.name != "_data"}


def imports_of(path):
    """Modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("asintrovae")
        ):
            origin = node.module.removeprefix("asintrovae").lstrip(".")
            for alias in node.names:
                name = f"{origin}.{alias.name}".lstrip(".")
                found.add(name if name in MODULES else origin)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found |= {n.removeprefix("asintrovae.") for n in names if n.startswith("asintrovae.")}
    return found


IMPORTS = {name: imports_of(path) for name, path in MODULES.items() if name}


def room(module):
    return module.split(".")[0]


def floor(module):
    (found,) = (level for level, rooms in enumerate(FLOORS) if room(module) in rooms)
    return found


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_imports_go_down(module):
    """To a lower floor, or within one room; the single modules of the lowest floor share one."""
    for other in IMPORTS[module]:
        down = floor(other) < floor(module)
        same_room = room(other) == room(module) or floor(other) == floor(module) == 0
        assert down or same_room, f"{module} imports {other}"


def test_no_module_imports_itself_by_a_circle():
    order = list(graphlib.TopologicalSorter(IMPORTS).static_order())
    assert set(order) >= set(IMPORTS)


def test_theory_loads_torch_and_nothing_of_files_parameters_or_locks():
    code = (
        "import sys, asintrovae.theory.objectives, asintrovae.theory.networks; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "torch" in loaded
    assert not {"pydantic", "filelock", "safetensors", "torchvision", "matplotlib"} & set(loaded)
    ours = {name for name in loaded if name.startswith("asintrovae.")}
    assert {room(name.removeprefix("asintrovae.")) for name in ours} <= {
        "theory",
        "collectives",
        "devices",
        "randomness",
        "threads",
    }


TEXT = """A = 1
\"\"\"A constant.\"\"\"

def f(x: int) -> int:
    return x + A
"""


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (TEXT.replace("A constant", "One"), True),
        (TEXT.replace("    return", '    """Return."""\n    return'), True),
        (TEXT.replace("x + A", "(\n        x\n        + A  # as in Eq. 1\n    )"), True),
        (TEXT.replace("A = 1", "A = 2"), False),
        (TEXT.replace("A = 1", "A = 1.0"), False),
        (TEXT.replace("x + A", "x - A"), False),
        (TEXT.replace("return x + A", "x + A"), False),
        (TEXT.replace("return x + A", "return None"), False),
    ],
)
def test_the_hash_of_the_code_sees_what_computes_and_no_text(tmp_path, text, same):
    for name, content in (("a.py", TEXT), ("b.py", text)):
        (tmp_path / name).write_text(content)
    assert (meaning(tmp_path / "a.py") == meaning(tmp_path / "b.py")) == same
