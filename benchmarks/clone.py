"""Seconds of `make test` and `make book` from a fresh clone, downloads and installation included.

usage: python -m benchmarks.clone [REVISION ...]

Each command runs in a clone of its own, of each revision (HEAD where none is named); a quarter of
an hour for both. The machine must be idle, and packages are downloaded unless pip has kept them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
TARGETS = ("test", "book")
OURS = ("PYTHON", "VIRTUAL_ENV", "CONDA_", "MAKE", "MFLAGS", "OMP_", "GIT_")
"""Beginnings of variables that describe this environment and not the clone's."""


def git(*arguments: str) -> str:
    """Return what git prints in this checkout."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def make(target: str, commit: str) -> dict[str, Any]:
    """Run make in a fresh clone of a commit.

    Args:
        target: of the Makefile.
        commit: to check out.

    Returns:
        `seconds` of the command, and of its `stages` as the clone has timed them.

    Raises:
        RuntimeError: the command failed; with the end of what it printed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        git("clone", "-q", "--no-hardlinks", "--no-checkout", str(ROOT), str(clone))
        subprocess.run(["git", "-C", str(clone), "checkout", "-q", commit], check=True)
        start = time.monotonic()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        done = subprocess.run(["make", target], cwd=clone, env=kept, **pipes)
        seconds = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(f"make {target} failed at {commit[:7]}:\n{done.stdout[-3000:]}")
        stages = json.loads((clone / "_build" / "seconds.json").read_text())
    return {"seconds": round(seconds, 1), "stages": stages}


def measure(revisions: list[str]) -> list[dict[str, Any]]:
    """Return a row for each revision, in their order: commit, day and each target's seconds."""
    rows = []
    for revision in revisions:
        commit, day = git("show", "-s", "--format=%H %cs", f"{revision}^{{commit}}").split()
        row: dict[str, Any] = {"commit": commit[:7], "date": day}
        for target in TARGETS:
            row[target] = make(target, commit)
            print(f"{row['commit']} make {target}: {row[target]['seconds']:.0f} s")
        rows.append(row)
    return rows


if __name__ == "__main__":
    path = record(RESULTS, "clone", {"rows": measure(sys.argv[1:] or ["HEAD"])})
    print(f"written to {path.relative_to(ROOT)}")
