"""Signals that ask a run to end: it saves first."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Interruption:
    """A request to end, noted while a run trains.

    Attributes:
        stop_signal: number of the signal that asked for it, 0 while there is none.
    """

    stop_signal: int = 0


SAME_REQUEST = 1.0
"""Seconds within which a second SIGINT repeats the first; a terminal and a parent may send one."""


@contextmanager
def interruptible(
    run_dirs: Sequence[str], forward: Callable[[], object] | None = None
) -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM instead of ending at once, so that the body can save and stop.

    A second SIGINT acts at once, as it would outside. A second SIGTERM changes nothing: who sends
    one wants the run to end, and it is about to. In a Jupyter kernel the end of the client counts
    as SIGTERM (`outliving_its_client`). Outside the main thread, where Python lets nobody handle
    signals, nothing is noted.

    Args:
        run_dirs: folders of the runs, for the message; the first is named.
        forward: called when the first signal comes.

    Yields:
        What has been noted.

    Raises:
        KeyboardInterrupt: after SIGINT, with a message that says how to go on.
        SystemExit: after SIGTERM, of status 1, with the same message.
    """
    interruption, asked_at = Interruption(), 0.0
    here = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if here else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if handlers[number] in (None, signal.SIG_IGN):
            del handlers[number]

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        nonlocal asked_at
        if not interruption.stop_signal:
            interruption.stop_signal, asked_at = number, time.monotonic()
            if forward is not None:
                forward()
        elif number == signal.SIGINT and time.monotonic() - asked_at > SAME_REQUEST:
            restore()
            signal.raise_signal(number)

    for number in handlers:
        signal.signal(number, note)
    try:
        with outliving_its_client() if signal.SIGTERM in handlers else nullcontext():
            yield interruption
    finally:
        restore()
    if stop_signal := interruption.stop_signal:
        more = f" and {len(run_dirs) - 1} more" if run_dirs[1:] else ""
        stopped = f"{signal.Signals(stop_signal).name}: stopped"
        kept = f"run_dir={run_dirs[0]!r}{more} has the checkpoint"
        message = f"{stopped}; {kept}, from which the same command goes on"
        tell_the_terminal(message)
        raise KeyboardInterrupt(message) if stop_signal == signal.SIGINT else SystemExit(message)


class _AnyProcess:
    """Equal to every process number, so that ipykernel's poller never finds its parent gone."""

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


@contextmanager
def outliving_its_client() -> Iterator[None]:
    """Send this process SIGTERM when the program that started it as a Jupyter kernel ends.

    ipykernel leaves at once then, whatever the kernel computes. Here it waits for the end of the
    body. Elsewhere nothing is done: a program in the background may go on without its shell.
    """
    poller: Any = getattr(_kernel_app(), "poller", None)
    if not hasattr(poller, "parent_pid"):  # no kernel, or one on Windows
        yield
        return
    parent, body_has_ended = os.getppid(), threading.Event()

    def watch() -> None:
        while not body_has_ended.wait(0.2):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watched, poller.parent_pid = poller.parent_pid, _AnyProcess()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        body_has_ended.set()
        thread.join()
        poller.parent_pid = watched


def tell_the_terminal(message: str) -> None:
    """Write a line to the standard error of a Jupyter kernel; nothing in any other program.

    What a kernel prints goes to its client, which may no longer be there, or no longer listen. A
    kernel that was asked to end then also keeps to itself that it could not answer.
    """
    if (app := _kernel_app()) is None:
        return
    app.log.addFilter(lambda _: getattr(app.kernel, "_shutdown_message", None) is None)
    with suppress(OSError, AttributeError):
        os.write(sys.stderr.fileno(), f"{message}\n".encode())  # ipykernel keeps the original there


def _kernel_app() -> Any:
    """Return the IPKernelApp of the running kernel, None in a program that is no kernel."""
    module = sys.modules.get("ipykernel.kernelapp")
    running = module is not None and module.IPKernelApp.initialized()
    return module.IPKernelApp.instance() if module is not None and running else None
