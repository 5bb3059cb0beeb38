"""One process of several that train a run together.

    torchrun --nproc-per-node 4 -m asintrovae.running.worker parameters.json

parameters.json holds the parameters of a RunConfig; result.json is written beside it. The processes
may be on several machines that share the folder run_dir. Told to end by SIGTERM or SIGINT, for
which torchrun leaves them half a minute, they save first; the same line then goes on. With
--while-stdin-is-open they do the same when the process at the other end is gone, killed or not.
"""

import io
import json
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from asintrovae.build import build_data, build_model, build_objective
from asintrovae.collectives import world
from asintrovae.config import RunConfig
from asintrovae.running.processes import fabric_for
from asintrovae.running.train import train


@record  # the launcher then tells why a process failed
def main(path: Path) -> None:
    """Train the run that the file describes; the first process writes the result."""
    config = RunConfig(**json.loads(path.read_text()))
    greetings = logging.getLogger("lightning_fabric")
    greetings.setLevel(logging.WARNING)  # they come once for each process
    fabric = fabric_for(config)
    devices = {"devices": fabric.world_size}
    config = RunConfig(**{**config.model_dump(), **devices})  # refuses a batch without equal shares
    config = config.model_copy(update={"device": str(fabric.device)})
    data = build_data(config)
    result = train(build_model(config, data.shape), build_objective(config), data, config)
    if world()[0] == 0:
        path.with_name("result.json").write_text(json.dumps(asdict(result)))


class _StandardError(io.TextIOWrapper):
    """Standard error of a process that goes on when nobody reads it any more."""

    def write(self, text: str) -> int:
        """Write as any text file does; what cannot be written is left out."""
        with suppress(BrokenPipeError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as any text file does; what cannot be written is left out."""
        with suppress(BrokenPipeError):
            super().flush()


def end_with_stdin() -> None:
    """Wait for the end of stdin, then ask this process to end as by SIGTERM: it saves first."""
    os.read(0, 1)  # nothing is ever written; a read of sys.stdin would hold up the process's end
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if "--while-stdin-is-open" in sys.argv:
        sys.stderr = _StandardError(io.FileIO(2, "w", closefd=False), write_through=True)
        threading.Thread(target=end_with_stdin, daemon=True).start()
    main(Path(sys.argv[1]))
