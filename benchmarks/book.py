"""The book: seconds of its chapters, runs and build stages as they were recorded, and what it costs
to import the package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import alternate

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torchvision",
    "torchmetrics",
    "lightning_fabric",
    "matplotlib",
    "IPython",
    "dask",
    "papermill",
    "torch_fidelity",
)
"""Packages that only some of what the package does needs, and takes seconds to import."""


def chapters() -> dict[str, float]:
    """Seconds of each chapter when it was last executed; nothing is executed here."""
    paths = sorted((ROOT / "book").glob("[0-9]*.ipynb"))
    return {
        path.stem: json.loads(path.read_text())["metadata"]["execution"]["seconds"]
        for path in paths
    }


def runs() -> dict[str, float]:
    """Seconds of training of the demonstrations of this build, where there is one."""
    paths = sorted((ROOT / "book" / "runs").glob("*/record.json"))
    return {path.parent.name: json.loads(path.read_text())["seconds"] for path in paths}


def stages() -> dict[str, float]:
    """Seconds of the stages of the last `make book` and `make test` here, where they were run."""
    path = ROOT / "_build" / "seconds.json"
    return json.loads(path.read_text()) if path.exists() else {}


def python(code: str) -> str:
    """What a new Python prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout


def imported() -> list[str]:
    """Which of HEAVY `import asintrovae` brings with it."""
    return python(
        f"import sys, asintrovae; print(*(name for name in {HEAVY} if name in sys.modules))"
    ).split()


def run() -> tuple[dict[str, Any], list[str]]:
    """Print the tables; returns what was measured, and the limits that were exceeded."""
    took, trained, built = chapters(), runs(), stages()
    modules = ("torch", "asintrovae", "asintrovae.figures.plots")
    times = alternate(
        {name: lambda name=name: python(f"import {name}") for name in modules},
        seconds=6.0,
        rounds=2,
    )
    heavy, ratio = imported(), times["asintrovae"] / times["torch"]
    print("\nseconds of the chapters, as recorded when they were executed")
    for name, seconds in took.items():
        print(f"{name:22s} {seconds:6.1f}")
    print(f"{'all together':22s} {sum(took.values()):6.1f}")
    print(
        "training in this build:",
        ", ".join(f"{name} {seconds:.0f} s" for name, seconds in trained.items()) or "none",
    )
    print(
        "stages of the last build and test here:",
        ", ".join(f"{name} {seconds:.0f} s" for name, seconds in built.items()) or "none",
    )
    print(
        "import:",
        ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items()),
        f"- {ratio:.2f} times torch alone",
    )
    limits = {
        "all chapters: 8 minutes": sum(took.values()) <= 480,
        "a chapter: 60 seconds, as its first line says": max(took.values()) <= 60,
        "import asintrovae: 1.5 times import torch": ratio <= 1.5,
        f"import asintrovae brings {', '.join(heavy)}": not heavy,
    }
    return {"chapters": took, "runs": trained, "stages": built, "import": times}, [
        limit for limit, met in limits.items() if not met
    ]
