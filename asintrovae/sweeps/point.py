"""One point of a grid, executed by papermill in a process of its own."""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any

from asintrovae.sweeps.grid import Point, sweep_imports
from asintrovae.sweeps.status import DONE, status_of

GRACE = 600.0
"""Seconds that a run has to save when it is asked to end."""


ENDING = threading.Event()
"""In the process of a point: set once it was asked to end."""


def execute_point() -> int:
    """Execute the point that the first line of stdin describes; this process is its own.

    When stdin ends, or SIGTERM comes, the kernel is asked to end, which saves first: the Dask
    worker is then gone, or wants an end.

    Returns:
        0, or 1 with the reason on stdout where the point failed.
    """
    with sweep_imports():
        import psutil  # noqa: F401 (for end_with_stdin, whose thread nobody hears)
        from filelock import FileLock
        from papermill import PapermillExecutionError
    point = Point(**json.loads(sys.stdin.readline()))
    point.run_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder_of_sockets()) as folder:
        threading.Thread(target=end_with_stdin, args=[folder], daemon=True).start()
        signal.signal(
            signal.SIGTERM, lambda *_: threading.Thread(target=end, args=[folder]).start()
        )
        with FileLock(point.run_dir / ".lock"):  # nothing runs twice at once, whoever asks for it
            try:
                execute_notebook(point, folder)
            except PapermillExecutionError as error:
                log(point, "interrupted" if ENDING.is_set() else "failed")
                print(reason(error))
                return 1
    return 0


LONGEST_FOLDER = 90
"""Bytes of a folder's path that leave room for the name of a socket: both have 103 or 107 bytes."""


def folder_of_sockets() -> str:
    """Return the folder for temporary files, or /tmp where its path is too long for a socket's."""
    folder = tempfile.gettempdir()
    long = len(os.fsencode(folder)) > LONGEST_FOLDER - 12  # of the name below it
    return "/tmp" if long and os.access("/tmp", os.W_OK) else folder


def execute_notebook(point: Point, folder: str) -> None:
    """Execute the notebook of a point by papermill, unless its run is done.

    Args:
        point: of a grid.
        folder: for the sockets of the kernel.
    """
    import papermill
    from traitlets.config import Config

    if status_of(point) in DONE:  # by another sweep, or before the news reached the scheduler
        return
    log(point, "started")
    manager: dict[str, Any] = {"shutdown_wait_time": GRACE}  # it would kill the kernel after 5 s
    if os.name == "posix" and len(os.fsencode(folder)) <= LONGEST_FOLDER:
        # Of two kernels that start at once one could take the port that the other has chosen.
        manager |= {"transport": "ipc", "ip": f"{folder}/kernel"}
    config = Config({"KernelManager": manager})
    output = f"{point.parameters['run_dir']}/notebook.ipynb"
    papermill.execute_notebook(
        point.notebook, output, point.parameters, progress_bar=False, config=config
    )
    log(point, "ended")


def end_with_stdin(folder: str) -> None:
    """Wait for the end of stdin, then `end` this process."""
    os.read(0, 1)  # nothing is written after the first line
    end(folder)


def end(folder: str) -> None:
    """Ask the kernel below this process to end, which saves first, and wait until it has.

    The notebook then fails in the main thread, which ends this process. Without a kernel the main
    thread waits for one, or for another process's lock: this process ends at once then.
    """
    import psutil

    ENDING.set()
    asked: set[int] = set()
    deadline, without_kernel = time.monotonic() + GRACE, 0
    while time.monotonic() < deadline and without_kernel < 20:
        kernels = psutil.Process().children()
        without_kernel = 0 if kernels else without_kernel + 1
        for kernel in kernels:
            if kernel.pid not in asked:
                asked.add(kernel.pid)
                with suppress(psutil.Error):
                    kernel.terminate()
        time.sleep(0.25)
    family = psutil.Process().children(recursive=True)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, 5)  # the lock is ours until they are gone
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def log(point: Point, text: str) -> None:
    """Add a line to the run's sweep.log, with time and process."""
    with (point.run_dir / "sweep.log").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {os.getpid()} {text}\n")


def reason(error: Any) -> str:
    """Return the last line of a PapermillExecutionError's traceback, and the line that failed."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    lines = plain.strip().splitlines()
    arrows = [line.split(maxsplit=2)[2] for line in lines if re.match(r"-+> \d+ \S", line)]
    line = arrows[0] if arrows else error.source.splitlines()[0]
    return f"{lines[-1]} (in the notebook's line: {line})"
