"""Leave in recorded runs only what is read again: of checkpoints the weights, without the
optimiser's state, once.

python book/tools/keep_weights.py data/runs/STUDY ...
"""

import sys
from pathlib import Path

from asintrovae.running.checkpoint import (
    CURRENT,
    PREVIOUS,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def keep_weights(run_dir: Path) -> None:
    """Write the run's checkpoint anew without the optimiser's state; such a run can be evaluated,
    not continued."""
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        raise SystemExit(f"{run_dir} holds no checkpoint")
    weights = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith("optimizer.")
    }
    save_checkpoint(run_dir, Checkpoint(weights, checkpoint.meta))
    (run_dir / PREVIOUS).unlink(missing_ok=True)


if __name__ == "__main__":
    for study in map(Path, sys.argv[1:]):
        records = list(study.rglob("record.json"))  # finished runs only
        for record in records:
            if (record.parent / CURRENT).exists():
                keep_weights(record.parent)
        print(f"{study}: {len(records)} finished runs")
