"""One process trains in a folder: the lock that holds it."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from asintrovae.config import ParameterError

LOCK, OWNER = ".training.lock", ".training.owner"


@contextmanager
def locked(run_dirs: Sequence[str]) -> Iterator[None]:
    """Hold folders, so that no other process trains in them; one that is killed lets them go.

    Args:
        run_dirs: the folders; missing ones are made.

    Raises:
        ParameterError: in one line, for a folder that cannot be written to, and for one that is
            held, with host and process.
    """
    with ExitStack() as held:
        for run_dir in run_dirs:
            owner = Path(run_dir) / OWNER
            try:
                owner.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(owner.with_name(LOCK)).acquire(timeout=0))
                owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            except Timeout:
                who = "another process"
                with suppress(OSError):
                    who = owner.read_text() or who
                held_by = f"run_dir={run_dir!r} is being trained by {who}"
                way_out = "wait for its end, or choose another run_dir"
                raise ParameterError(f"{held_by}; {way_out}") from None
            except OSError as error:
                why = f"cannot be written to ({error.strerror})"
                raise ParameterError(f"run_dir={run_dir!r} {why}; choose another run_dir") from None
            held.callback(owner.unlink, missing_ok=True)
        yield
