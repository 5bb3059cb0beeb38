"""Where the small files live that travel with the project, which code this is, and how a file is written."""

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def embedded(name: str) -> Path:
    """Folder `name` of the embedded data: inside an installed wheel, or data/ of a source checkout.

    Raises FileNotFoundError with the places looked at.
    """
    places = [PACKAGE / "_data" / name, PACKAGE.parent / "data" / name]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"embedded data {name!r} not found in {' or '.join(map(str, places))}; reinstall the package")


@cache
def code_hash() -> str:
    """SHA-256 over the package's own source files, names included, in order: which code made a result."""
    digest = hashlib.sha256()
    for path in sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".js")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file so that a crash or power cut at any point leaves either the old content or the new, never a part.

    previous: the name that the old content keeps, in the same folder; without it the old content is gone.
    Raises OSError, in one line that names the file, where it cannot be written; the old content then stays where it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        reason = f"{error.strerror}; what was saved before is kept, and the same command goes on from it"
        raise OSError(error.errno, reason, str(path)) from None
    with suppress(OSError):  # where folders cannot be synchronised: Windows, some network file systems
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the new name may be lost with the power
        finally:
            os.close(folder)
