"""The files of book/tools as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

from conftest import ROOT


def tool(name: str, root: Path = ROOT) -> ModuleType:
    """Return book/tools/NAME.py of the checkout in root as a module."""
    spec = importlib.util.spec_from_file_location(name, root / "book" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
