"""Run a command, and note in _build/seconds.json how long it took if it succeeded.

usage: python book/tools/timed.py STAGE COMMAND...
"""

import json
import subprocess
import sys
import time
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "_build" / "seconds.json"


def main(stage: str, command: list[str]) -> int:
    """The exit status of the command."""
    start = time.monotonic()
    status = subprocess.call(command)
    if status == 0:
        known = json.loads(PATH.read_text()) if PATH.exists() else {}
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(
            json.dumps(known | {stage: round(time.monotonic() - start, 1)}, indent=1) + "\n"
        )
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
