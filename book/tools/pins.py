"""Write constraints.txt (exact pins of what is installed here) and environment.yml (the same for conda).

usage: .venv/bin/python book/tools/pins.py
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = "# Exact versions that were tested together on Python 3.11; written by `make constraints`.\n"


def pins() -> list[str]:
    """name==version of every installed distribution but this project, without the tag of a local build (+cpu)."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split("+")[0] for line in lines if "==" in line]


def environment(lines: list[str]) -> str:
    """Conda environment: Python from conda, everything else pinned by pip as in constraints.txt."""
    packages = "".join(f"      - {line}\n" for line in lines)
    return (
        HEAD + "name: asintrovae\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n"
        f"  - pip:\n{packages}      - -e .\n"
    )


if __name__ == "__main__":
    found = pins()
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(found) + "\n")
    (ROOT / "environment.yml").write_text(environment(found))
