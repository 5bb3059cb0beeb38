"""Keep in step what files repeat of the project: the address of its repository and its version.
Stored outputs stay as they are.

usage: python book/tools/repository.py https://github.com/OWNER/NAME    move to another repository
       python book/tools/repository.py --version                        take over a new version
The address is named in _config.yml, the version in pyproject.toml. The set-up cell of a notebook
installs the release that its page belongs to, the tag v<version>. Chapters do not become stale:
what they compute depends neither on the address nor on the tag.
"""

import re
import subprocess
import sys
from pathlib import Path

import tomllib
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


def release(root: Path = ROOT) -> str:
    """Return the tag of the version in pyproject.toml."""
    return f"v{tomllib.loads((root / 'pyproject.toml').read_text())['project']['version']}"


def requirement(url: str) -> re.Pattern[str]:
    """Find what pip installs from the repository, with or without the tag of a release."""
    return re.compile(rf"git\+{re.escape(url)}(@v[\w.]+)?(?![\w./@-])")


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
    return write({path: old.sub(rf"\g<1>{new}", text) for path, text in texts(root).items()})


def take_over_version(root: Path = ROOT) -> list[Path]:
    """Name the version of pyproject.toml in set-up cells and CITATION.cff; the changed files."""
    url, tag = configured(root), release(root)
    moved = {
        path: requirement(url).sub(f"git+{url}@{tag}", text)
        for path, text in texts(root).items()
        if path.is_relative_to(root / "book")
    }
    cited = root / "CITATION.cff"
    moved[cited] = re.sub(r"(?m)^version: .*$", f"version: {tag[1:]}", cited.read_text())
    return write(moved)


def write(moved: dict[Path, str]) -> list[Path]:
    """Write the texts that differ from the files and return their paths."""
    changed = [path for path, text in moved.items() if path.read_bytes() != text.encode()]
    for path in changed:
        path.write_bytes(moved[path].encode())
    return changed


if __name__ == "__main__":
    try:
        (given,) = sys.argv[1:] or [""]
        files = take_over_version() if given == "--version" else move(given)
    except ValueError as error:
        sys.exit(f"make repository: {error}")
    named = release() if given == "--version" else configured()
    print(f"{len(files)} files name {named} now; `git diff` shows them")
