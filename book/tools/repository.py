"""Move the project to another repository: every address of it in the files follows; stored outputs
stay as they are.

usage: python book/tools/repository.py https://github.com/OWNER/NAME
The address is named in _config.yml. Chapters do not become stale: what they compute does not depend
on it.
"""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"https://github\.com/([\w-][\w.-]*)/([\w.-]*[\w-])")


def configured(root: Path = ROOT) -> str:
    """The address in _config.yml."""
    return str(yaml.safe_load((root / "_config.yml").read_text())["repository"]["url"])


def occurrences(url: str) -> re.Pattern[str]:
    """Finds the repository as pages and git (github.com/) and as Colab (/github/) name it; no other
    whose name begins like it."""
    owner_and_name = re.escape(url.removeprefix("https://github.com/"))
    return re.compile(rf"(github\.com/|google\.com/github/){owner_and_name}(?![\w-]|\.(?!git\b)\w)")


def texts(root: Path) -> dict[Path, str]:
    """Content of the text files of the project, those that git does not ignore included before they
    are committed."""
    listing = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(
        listing, cwd=root, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    found = {}
    for path in sorted({root / name for name in names if name and (root / name).is_file()}):
        try:
            found[path] = path.read_bytes().decode()
        except UnicodeDecodeError:  # an image or an array
            continue
    return found


def move(url: str, root: Path = ROOT) -> list[Path]:
    """Put url in the place of the configured address everywhere; the files that changed.

    ValueError for an address of no use.
    """
    match = ADDRESS.fullmatch(url.strip())
    if match is None or match[2].endswith(".git"):
        raise ValueError(
            f"URL={url!r} is not https://github.com/OWNER/NAME (Colab opens notebooks from there)"
        )
    old, new = occurrences(configured(root)), f"{match[1]}/{match[2]}"
    changed = {
        path: moved
        for path, text in texts(root).items()
        if (moved := old.sub(rf"\g<1>{new}", text)) != text
    }
    for path, moved in changed.items():
        path.write_bytes(moved.encode())
    return list(changed)


if __name__ == "__main__":
    try:
        (address,) = sys.argv[1:] or [""]
        files = move(address)
    except ValueError as error:
        sys.exit(f"make repository: {error}")
    print(f"{len(files)} files name {configured()} now; `git diff` shows them")
