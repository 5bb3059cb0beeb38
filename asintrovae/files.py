"""Files of the project: their places, how one is written, and how a damaged one is named."""

import csv
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asintrovae.config import ParameterError

PACKAGE = Path(__file__).resolve().parent


def embedded(name: str) -> Path:
    """Return a folder of the embedded data.

    Args:
        name: of the folder, inside an installed wheel or in data/ of a source checkout.

    Raises:
        FileNotFoundError: with the places looked at.
    """
    places = [PACKAGE / "_data" / name, PACKAGE.parent / "data" / name]
    for place in places:
        if place.exists():
            return place
    looked_at = " or ".join(map(str, places))
    missing = f"embedded data {name!r} not found in {looked_at}"
    raise FileNotFoundError(f"{missing}; reinstall the package")


STALE = 3600
"""Seconds without a change after which a temporary file was left by a writer that was killed."""


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file so that a crash or power cut at any point leaves the old content or the new.

    Several processes and threads may write one file: the last one wins. Of a symbolic link the
    target is written. Temporary files are named NAME.XXXXXXXX.tmp, in the folder of the file.

    Args:
        path: the file.
        content: all of it.
        previous: the path that the old content keeps, in the same folder; without it it is gone.

    Raises:
        OSError: in one line that names the file, where it cannot be written; the old content then
            stays where it was.
    """
    linked = path.is_symlink()
    target = path.resolve() if linked else path
    temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            with suppress(FileNotFoundError):  # nothing there yet, or another writer has moved it
                if linked:  # perhaps to another disk, so that it cannot be moved
                    write_atomically(previous, target.read_bytes())
                else:
                    os.replace(target, previous)
        os.replace(temporary, target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        reason = (
            f"{error.strerror}; what was saved before is kept, and the same command goes on from it"
        )
        raise OSError(error.errno, reason, str(path)) from None
    remove_leftovers(target)
    with suppress(
        OSError
    ):  # where folders cannot be synchronised: Windows, some network file systems
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the new name may be lost with the power
        finally:
            os.close(folder)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that writers of this file left more than STALE seconds ago."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*tmp"):
        with suppress(OSError):  # its writer has just finished, or `path` has been removed
            if path.stat().st_mtime - leftover.stat().st_mtime > STALE:  # both by one clock
                leftover.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise ParameterError, naming the file and the way out, where it cannot be read."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, EOFError, csv.Error) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        reason = said or type(error).__name__
        way_out = "put back a copy, or start the run again, which goes on from its last checkpoint"
        raise ParameterError(f"{path} cannot be read ({reason}); {way_out}") from None
