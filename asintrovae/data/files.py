"""Where the small files live that travel with the project, which code this is, and how a file is written."""

import hashlib
import os
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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any point leaves either the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
