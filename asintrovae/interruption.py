"""What may reach a run from outside: another process in its folder, and a signal that asks it to end."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from asintrovae.config import ParameterError

LOCK, OWNER = ".training.lock", ".training.owner"


@contextmanager
def alone_in(run_dirs: Sequence[str]) -> Iterator[None]:
    """Hold these folders, made where missing, so that nobody else trains in them; whoever is killed holds them no longer.

    Raises ParameterError in one line for a folder that cannot be written to, and for one that is held, with host and process.
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
                raise ParameterError(
                    f"run_dir={run_dir!r} is being trained by {who}; wait for its end, or choose another run_dir"
                ) from None
            except OSError as error:
                raise ParameterError(
                    f"run_dir={run_dir!r} cannot be written to ({error.strerror}); choose another run_dir"
                ) from None
            held.callback(owner.unlink, missing_ok=True)
        yield


def leave_signals_to_the_run(_: int) -> None:
    """In a process that only loads data: a batch system tells all processes to end, and without data the run could not save.

    From the run itself SIGTERM is obeyed: that is how multiprocessing ends, at exit, what is still there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none: SIGTERM ends this process there, whoever sends it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@dataclass
class Interruption:
    """signal: number of the one that asked the run to end, 0 while there is none."""

    signal: int = 0


@contextmanager
def interruptible(run_dirs: Sequence[str], forward: Callable[[], object] | None = None) -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM instead of ending at once, so that the body can save and stop; then leave as asked.

    A second signal acts at once, as it would outside. forward: called when the first one comes. Outside the main thread,
    where Python lets nobody handle signals, nothing is noted. Raises KeyboardInterrupt after SIGINT, and after SIGTERM
    SystemExit with a message (status 1).
    """
    interruption = Interruption()
    here = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if here}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        interruption.signal = number
        restore()
        if forward is not None:
            forward()

    for number in handlers:
        signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
    if interruption.signal:
        more = f" and {len(run_dirs) - 1} more" if run_dirs[1:] else ""
        name = signal.Signals(interruption.signal).name
        message = f"{name}: stopped; run_dir={run_dirs[0]!r}{more} has the checkpoint, from which the same command goes on"
        raise KeyboardInterrupt(message) if interruption.signal == signal.SIGINT else SystemExit(message)
