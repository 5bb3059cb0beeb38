"""One process of several that train a run together; parameters.json holds the parameters of a RunConfig.

    torchrun --nproc-per-node 4 -m asintrovae.worker parameters.json

The processes may be on several machines that share the folder run_dir. Beside the parameters result.json is written.
Told to end by SIGTERM or SIGINT, for which torchrun leaves them half a minute, they save first; the same line then goes on.
With --while-stdin-is-open they end when whoever holds the other end does, killed kernels included.
"""

import json
import logging
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from asintrovae.build import build_data, build_model, build_objective
from asintrovae.config import RunConfig
from asintrovae.parallel import fabric_for, world
from asintrovae.training import train


@record  # the launcher then tells why a process failed
def main(path: Path) -> None:
    """Train the run that the file describes; the first process writes the result."""
    config = RunConfig(**json.loads(path.read_text()))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its greetings come once per process
    fabric = fabric_for(config)
    config = RunConfig(**{**config.model_dump(), "devices": fabric.world_size})  # refuses a batch that cannot be shared
    config = config.model_copy(update={"device": str(fabric.device)})
    data = build_data(config)
    result = train(build_model(config, data.shape), build_objective(config), data, config)
    if world()[0] == 0:
        path.with_name("result.json").write_text(json.dumps(asdict(result)))


def end_with_stdin() -> None:
    """Wait for the end of stdin, then end this process at once: nobody is left to train for."""
    os.read(0, 1)  # nothing is ever written; unlike a read of sys.stdin it does not hold up the end of the process
    os._exit(1)


if __name__ == "__main__":
    if "--while-stdin-is-open" in sys.argv:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    main(Path(sys.argv[1]))
