"""The address of the project is named once, in _config.yml; everything that repeats it can be moved
by one command."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from book_tools import tool
from conftest import ROOT

repository = tool("repository")
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
NAMED = re.compile(r"(?:github\.com|google\.com/github)/([\w-]+/[\w.-]*[\w-])")
OTHERS = {
    "taldatech/soft-intro-vae-pytorch",  # cited, as the next three: published codes
    "hhb072/IntroVAE",
    "LOUEY233/AS-IntroVAE",
    "igul222/improved_wgan_training",
    "toshas/torch-fidelity",  # its releases hold the weights of FID
    "ekzhang/jax-js",  # the library of the lab
    "OWNER/NAME",  # in usage lines
}
SOURCES = sorted((ROOT / "book" / "src").rglob("*.md"))
ELSEWHERE = "https://github.com/" + "some-one/another.book"  # in two parts: this file moves, too


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The text files of the project, in a git repository of their own; each test leaves them as
    they were."""
    root = tmp_path_factory.mktemp("moved")
    for path in repository.texts(ROOT):
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def strays(root, url):
    """(file, owner/name) wherever another repository is named than url and those of others."""
    wanted = {url.removeprefix("https://github.com/"), *OTHERS}
    own = Path(__file__).resolve().relative_to(ROOT)
    texts = {
        path.relative_to(root): text
        for path, text in repository.texts(root).items()
        if path.relative_to(root) != own
    }
    return {
        (str(path), name)
        for path, text in texts.items()
        for name in NAMED.findall(text)
        if name not in wanted
    }


def test_no_file_names_another_repository():
    assert strays(ROOT, CONFIG["url"]) == set()
    assert strays(ROOT, ELSEWHERE), "the search finds nothing at all"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.stem != "index"],  # its doors lead to the others
    ids=lambda path: path.stem,
)
def test_every_notebook_opens_in_colab_and_installs_from_there(path):
    text = path.read_text()
    page = path.relative_to(ROOT / "book" / "src").with_suffix(".ipynb").as_posix()
    name = CONFIG["url"].removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{name}/blob/{CONFIG['branch']}/book/{page}"
    (badge,) = re.findall(r"\[!\[[^\]]{20,}\]\((\S+colab\.svg)\)\]\((\S+)\)", text)
    assert badge[1] == link
    assert (ROOT / "book" / page).parent.joinpath(badge[0]).resolve().is_file()
    (cell,) = [
        cell for cell in jupytext.read(path).cells if "setup" in cell.metadata.get("tags", [])
    ]
    assert f"%pip install -q git+{CONFIG['url']}@{repository.release()}\n" in cell.source


def test_no_weights_that_are_here_are_missing_from_a_clone():
    """A chapter that reads weights which git ignores works here and fails for everybody else."""
    options = ["--others", "--ignored", "--exclude-standard"]
    found = subprocess.run(
        ["git", "ls-files", *options, "--", "data/runs/*.safetensors"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    assert not found.stdout


def test_the_version_is_named_once():
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert repository.release() == f"v{version}"


def test_a_new_version_is_taken_over_by_one_command_and_stored_outputs_stay(copy):
    command = [sys.executable, str(copy / "book" / "tools" / "repository.py"), "--version"]
    before, execute = repository.texts(copy), tool("execute", copy)
    pyproject = before[copy / "pyproject.toml"]
    (copy / "pyproject.toml").write_text(
        re.sub(r'(?m)^version = ".*"', 'version = "9.8.7"', pyproject)
    )
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "files name v9.8.7 now" in result.stdout
    after = repository.texts(copy)
    assert "\nversion: 9.8.7\n" in after[copy / "CITATION.cff"]
    for page in sorted((copy / "book").rglob("*.ipynb")):
        pair = copy / "book" / "src" / page.relative_to(copy / "book").with_suffix(".md")
        for path in (page, pair):
            lines = [line for line in after[path].splitlines() if "%pip install -q git+" in line]
            assert len(lines) == 1
            assert re.search(rf"git\+{CONFIG['url']}@v9\.8\.7(\\n|$)", lines[0])
        original = nbformat.read(ROOT / page.relative_to(copy), as_version=4)
        changed = nbformat.read(page, as_version=4)
        assert execute.fingerprint(changed) == execute.fingerprint(original)
        outputs = [[cell.get("outputs") for cell in book.cells] for book in (changed, original)]
        assert outputs[0] == outputs[1]
    assert subprocess.run(command, capture_output=True, text=True).stdout.startswith("0 files")
    for path, text in before.items():
        path.write_text(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git+https://github.com/a/b\n", "git+X\n"),
        ("git+https://github.com/a/b@v0.1.0\n", "git+X\n"),
        ('"git+https://github.com/a/b@v0.1.0\\n"', '"git+X\\n"'),
        (
            "git+https://github.com/a/b-more git+https://github.com/a/b.git https://github.com/a/b",
            None,
        ),
    ],
)
def test_only_what_is_installed_has_the_tag(text, expected):
    found = repository.requirement("https://github.com/a/b").sub("git+X", text)
    assert found == (expected or text)


def test_the_project_moves_by_one_command_and_stored_outputs_stay(copy):
    command = [sys.executable, str(copy / "book" / "tools" / "repository.py")]
    before, notebooks = repository.texts(copy), sorted(copy.glob("book/**/*.ipynb"))
    execute, here = tool("execute"), tool("execute", copy)
    result = subprocess.run([*command, ELSEWHERE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert repository.configured(copy) == ELSEWHERE
    assert strays(copy, ELSEWHERE) == set()
    changed = {path for path, text in repository.texts(copy).items() if text != before[path]}
    assert {
        copy / name for name in ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml")
    } | set(notebooks) <= changed
    assert f"{len(changed)} files name {ELSEWHERE}" in result.stdout
    for path in notebooks:
        old, new = json.loads(before[path]), json.loads(path.read_text())
        assert [cell.get("outputs") for cell in old["cells"]] == [
            cell.get("outputs") for cell in new["cells"]
        ]
        original = nbformat.read(ROOT / path.relative_to(copy), as_version=4)
        assert here.fingerprint(nbformat.read(path, as_version=4)) == execute.fingerprint(original)
    back = subprocess.run([*command, CONFIG["url"]], capture_output=True, text=True)
    assert back.returncode == 0, back.stderr
    assert repository.texts(copy) == before


def test_code_that_changes_makes_a_chapter_stale():
    """The address is left out of the fingerprint, and nothing else is."""
    execute = tool("execute")
    notebook = jupytext.read(SOURCES[0])
    fingerprint = execute.fingerprint(notebook)
    (cell,) = [cell for cell in notebook.cells if "setup" in cell.metadata.get("tags", [])]
    cell.source += "\nx = 1"
    assert execute.fingerprint(notebook) != fingerprint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "asintrovae",
        "http://github.com/a/b",
        "https://gitlab.com/a/b",
        f"{ELSEWHERE}/",
        f"{ELSEWHERE}.git",
    ],
)
def test_an_address_of_no_use_is_refused_and_nothing_changes(copy, url):
    before = repository.texts(copy)
    with pytest.raises(
        ValueError, match=re.escape(f"URL={url!r} is not https://github.com/OWNER/NAME")
    ):
        repository.move(url, copy)
    assert repository.texts(copy) == before
    result = subprocess.run(
        [sys.executable, str(copy / "book/tools/repository.py"), url],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git+https://github.com/a/b", "git+https://github.com/c/d"),
        ("(https://github.com/a/b.git)", "(https://github.com/c/d.git)"),
        ("See github.com/a/b.", "See github.com/c/d."),
        (
            "https://colab.research.google.com/github/a/b/blob",
            "https://colab.research.google.com/github/c/d/blob",
        ),
        ("https://github.com/a/b-more github.com/a/b.js github.com/x/a/b a/b", None),
    ],
)
def test_only_this_repository_is_moved(text, expected):
    found = repository.occurrences("https://github.com/a/b").sub(r"\g<1>c/d", text)
    assert found == (expected or text)
