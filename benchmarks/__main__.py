"""Run every benchmark of this folder, or the named ones: python -m benchmarks [name ...].

Each is a module with `run() -> (measured, missed)`: what goes into results/<machine>.json, and a
line per target that was missed. It prints its own table. Two have commands of their own:
`python -m benchmarks.clone` takes half an hour and the network, and `python -m benchmarks.roofline`
estimates where nothing can be measured.
"""

import importlib
import sys
from pathlib import Path

from benchmarks.measuring import machine, record

FOLDER = Path(__file__).parent
names = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if path.stem not in ("__init__", "__main__", "measuring", "clone", "roofline")
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
    missed = []
    for name in wanted or names:
        measured, failures = importlib.import_module(f"benchmarks.{name}").run()
        path = record(FOLDER / "results", name, measured)
        missed += [f"{name}: {failure}" for failure in failures]
    print(f"written to {path.relative_to(FOLDER.parent)}")
    print(*(f"MISSED {failure}" for failure in missed), sep="\n")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
