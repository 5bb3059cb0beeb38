"""Write constraints.txt (exact pins), environment.yml (the same for conda) and the hashes of what
comes to a browser.

usage: python book/tools/pins.py              resolve pyproject.toml anew; installs nothing
       python book/tools/pins.py --browser    note in book/browser_files.yml what is installed now
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from importlib.metadata import files, version
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HEAD = "# Exact versions that were tested together on Python 3.11; written by `make constraints`.\n"
OF_TORCH = ("nvidia-", "cuda-", "triton")  # torch pins these itself, others on each platform
MANIFEST = ROOT / "book" / "browser_files.yml"


def pins() -> list[str]:
    """name==version of everything the project needs, extras included, in the newest versions that
    pyproject.toml allows."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, f"{ROOT}[book,test,sweep,fid,hub]"],
            check=True,
        )
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    names = {
        data["name"]: data["version"].split("+")[0] for data in found
    }  # without the tag of a local build (+cpu)
    kept = [name for name in names if name != "asintrovae" and not name.startswith(OF_TORCH)]
    return [f"{name}=={names[name]}" for name in sorted(kept, key=str.lower)]


def environment(lines: list[str]) -> str:
    """Conda environment: Python from conda, everything else pinned by pip as in constraints.txt."""
    packages = "".join(f"      - {line}\n" for line in lines)
    return (
        HEAD
        + "name: asintrovae\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n"
        f"  - pip:\n{packages}      - -e .\n"
    )


def brought(component: dict[str, str]) -> list[Path]:
    """The installed files of a component of the manifest, in order; none where the package has
    other ones now."""
    inside = [
        path
        for path in files(component["package"]) or []
        if fnmatch(path.as_posix(), component["files"])
    ]
    return sorted(Path(str(path.locate())) for path in inside if "__pycache__" not in path.parts)


def digest(paths: list[Path]) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def note_browser_files() -> None:
    """Bring the hashes of the manifest, and the versions of what a package made itself, in step
    with what is installed."""
    text = MANIFEST.read_text()
    for component in yaml.safe_load(text)["packages"]:
        block = re.search(
            rf"(?ms)^  - name: {re.escape(component['name'])}\n.*?(?=^  - |^\S|\Z)", text
        )
        assert block is not None
        new = re.sub(r"sha256: .*", f"sha256: {digest(brought(component))}", block[0])
        if component["name"] == component["package"]:
            new = re.sub(r"version: .*", f"version: {version(component['package'])}", new)
        text = text.replace(block[0], new)
    MANIFEST.write_text(text)


if __name__ == "__main__":
    if "--browser" in sys.argv:
        note_browser_files()
    else:
        try:
            found = pins()
        except subprocess.CalledProcessError:
            sys.exit(
                "make constraints: pip could not resolve pyproject.toml, as it says above; "
                "nothing was changed"
            )
        (ROOT / "constraints.txt").write_text(HEAD + "\n".join(found) + "\n")
        (ROOT / "environment.yml").write_text(environment(found))
