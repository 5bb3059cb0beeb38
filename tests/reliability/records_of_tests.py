"""What the long tests found, as JSON for the appendix on reliability."""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

from asintrovae.files import write_atomically
from asintrovae.running.provenance import code_hash, versions

FOLDER = Path(__file__).resolve().parents[2] / "data" / "reliability"


def measured_on() -> dict[str, Any]:
    """Machine, versions and day, for a record."""
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "code": code_hash(),
    }


def write(name: str, record: dict[str, Any]) -> Path:
    """Write a record; returns where."""
    write_atomically(FOLDER / name, (json.dumps(record, indent=2) + "\n").encode())
    return FOLDER / name
