"""Run every benchmark of this folder, or the named ones: python -m benchmarks [name ...].

Each is a module with `run() -> (measured, missed)`: what goes into results/<machine>.json, and a
line per target that was missed. It prints its own table.
"""

import importlib
import json
import re
import sys
from pathlib import Path

from benchmarks.measuring import machine

FOLDER = Path(__file__).parent
names = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem not in ("__init__", "__main__", "measuring")
)


def main(wanted: list[str]) -> int:
    """Print, write the results, return the exit status."""
    if unknown := set(wanted) - set(names):
        print(
            f"benchmarks: no {', '.join(sorted(unknown))}; there are {', '.join(names)}",
            file=sys.stderr,
        )
        return 2
    here = machine()
    print(*(f"{key} {value}" for key, value in here.items()), sep=" · ")
    slug = re.sub(r"\W+", "-", f"{here['processor']} {here['threads']} threads").strip("-").lower()
    path = FOLDER / "results" / f"{slug}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    missed = []
    for name in wanted or names:
        measured, failures = importlib.import_module(f"benchmarks.{name}").run()
        results[name] = {"machine": here, **measured}
        missed += [f"{name}: {failure}" for failure in failures]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {path.relative_to(FOLDER.parent)}")
    print(*(f"MISSED {failure}" for failure in missed), sep="\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
