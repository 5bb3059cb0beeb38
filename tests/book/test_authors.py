"""What helps those who write: a chapter is begun and checked by one command each, before a commit
and after a push."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from book_tools import tool
from conftest import ROOT, build, tiny_config
from test_repository import repository

from asintrovae import evaluate, load_run, save_record, train
from asintrovae.running.checkpoint import load_checkpoint

NAME = "99_new_things"
WORKFLOW = ROOT / ".github" / "workflows" / "book.yml"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project, in a folder of its own."""
    root = tmp_path_factory.mktemp("project")
    for path in [
        *repository.texts(ROOT),
        *(ROOT / "data").glob("mnist*/*"),
        *(ROOT / "data" / "runs").rglob("*.npy"),
    ]:
        target = root / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return root


def use(root, name, *arguments):
    """Run a tool of book/tools in another folder."""
    command = [sys.executable, str(root / "book" / "tools" / f"{name}.py"), *arguments]
    return subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)


def environment(root):
    """The package of that folder, and the tools of this Python."""
    own = {
        "PYTHONPATH": str(root),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return {**os.environ, **own}


def test_a_new_chapter_is_in_the_mould_and_checked(copy):
    """It is begun, executed, held to every rule for chapters, and its page is built; then its
    exercises are spoilt."""
    begun = use(copy, "new_chapter", NAME)
    assert begun.returncode == 0, begun.stderr
    toc = yaml.safe_load((copy / "_toc.yml").read_text())
    parts = [[chapter["file"] for chapter in part["chapters"]] for part in toc["parts"]]
    (part,) = [files for files in parts if f"book/{NAME}" in files]
    numbers = [int(file[5:7]) for files in parts for file in files if re.match(r"book/\d\d_", file)]
    assert numbers == sorted(numbers)
    assert part[-1] == f"book/{NAME}"
    text = copy / "book" / "src" / f"{NAME}.md"
    assert "TODO" in text.read_text()

    checked = use(copy, "check_chapter", NAME)
    assert checked.returncode == 0, checked.stdout[-3000:] + checked.stderr[-3000:]
    page = (copy / "_build" / "check" / "_build" / "html" / "book" / f"{NAME}.html").read_text()
    assert "nats by hand" in page
    assert "New things" in page

    text.write_text(text.read_text().replace("- TODO: to the text above.\n", "", 1))
    spoilt = use(copy, "check_chapter", NAME)
    assert spoilt.returncode != 0
    assert "test_chapter_keeps_to_the_mould" in spoilt.stdout
    assert "0 of 1 notebooks to execute" in spoilt.stderr  # prose alone: nothing is computed again

    again = use(copy, "new_chapter", "99_other")
    assert again.returncode == 1
    assert (
        again.stderr
        == "make new-chapter: NAME='99_other': book/src/99_new_things.md is there already; "
        "take another number\n"
    )


@pytest.mark.parametrize(
    "name", ["", "title", "7_title", "13-title", "13_Title", "13_", "../13_title"]
)
def test_a_chapter_needs_a_number_and_a_name(name):
    with pytest.raises(
        ValueError,
        match=re.escape(f"NAME={name!r} is not two digits, an underscore and lower-case words"),
    ):
        load("new_chapter").begin(name)


def load(name):
    """A tool that imports another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "book" / "tools"))
        return tool(name)


def test_a_chapter_that_is_not_there_is_named_with_the_nearest():
    found = load("check_chapter").found
    assert found("05_as_distance") == ROOT / "book" / "src" / "05_as_distance.md"
    for name, out in (
        ("05_as_distanse", "did you mean '05_as_distance'?"),
        ("x", "there are 01_vae to "),
    ):
        with pytest.raises(
            ValueError, match=re.escape(f"CHAPTER={name!r} is no chapter in book/src; {out}")
        ):
            found(name)


def test_a_reference_that_leads_nowhere_is_told_from_one_to_another_page():
    """The page is built without the others, so references to them have to be known by name."""
    known = load("check_chapter").known_elsewhere()
    assert {
        "01_vae",
        "notation",
        "status",
        "eq-as-distance",
        "fig-clouds",
        "vae-protocol-kl",
        "ex-running-save",
    } <= known
    assert "eq-that-is-nowhere" not in known


def test_hooks_run_from_the_environment_of_the_project():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for source in config["repos"] for hook in source["hooks"]}
    assert [source["repo"] for source in config["repos"]] == ["local"], (
        "another repository would be fetched"
    )
    assert hooks.keys() >= {"ruff", "ruff-format", "mypy", "jupytext"}
    for hook in hooks.values():
        assert hook["language"] == "system"
        folder, name = hook["entry"].split()[0].rsplit("/", 1)
        assert folder == ".venv/bin"
        assert Path(sys.executable).with_name(name).is_file(), (
            f"{name} is not installed by make setup"
        )
    pairs = re.compile(hooks["jupytext"]["files"])
    notebooks = [
        *ROOT.glob("book/*.ipynb"),
        *ROOT.glob("book/training/*.ipynb"),
        *ROOT.glob("book/src/**/*.md"),
    ]
    assert all(pairs.search(path.relative_to(ROOT).as_posix()) for path in notebooks)
    assert not pairs.search("book/notation.md")


def test_hooks_find_what_is_wrong(tmp_path):
    """A commit with a name that is not defined is refused, one without passes."""
    for name in (".pre-commit-config.yaml", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    pre_commit = str(Path(sys.executable).with_name("pre-commit"))
    for code, result in (("print(nothing)", 1), ("print(1)", 0)):
        (tmp_path / "x.py").write_text(f'"""A file."""\n\n{code}\n')
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        subprocess.run(["git", "add", "x.py", ".pre-commit-config.yaml"], cwd=tmp_path, check=True)
        env = {**environment(ROOT), "PRE_COMMIT_HOME": str(tmp_path / "cache")}
        run = subprocess.run(
            [pre_commit, "run"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert run.returncode == result, run.stdout
        assert ("F821" in run.stdout) == bool(result)


def test_the_workflow_is_one():
    """Against the schema that GitHub's editor uses; it comes with the tool."""
    schema = str(Path(sys.executable).with_name("check-jsonschema"))
    command = [schema, "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_workflow_does_what_is_asked_of_it():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    events, jobs = workflow[True], workflow["jobs"]  # YAML reads the key `on` as true
    assert events.keys() >= {"push", "pull_request", "schedule"}
    steps = {
        name: [step.get("run") or step["uses"].partition("@")[0] for step in job["steps"]]
        for name, job in jobs.items()
    }
    assert "make test" in steps["test"]
    assert {"make book", "actions/upload-artifact", "actions/upload-pages-artifact"} <= set(
        steps["build"]
    )
    assert steps["publish"] == ["actions/deploy-pages"]
    assert set(jobs["publish"]["needs"]) == {"test", "build"}
    assert "make constraints" in steps["newest"]
    targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
    verbs = [
        verb
        for job in steps.values()
        for step in job
        if step.startswith("make ")
        for verb in step.split()[1:]
    ]
    assert set(verbs) <= set(targets)


def test_actions_are_pinned_by_what_they_contain():
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW.read_text())
    assert len(used) >= 5
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), f"{action} can change under us"
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action}: say which version that is"
    assert yaml.safe_load(WORKFLOW.read_text())["permissions"] == {"contents": "read"}


def test_recorded_runs_keep_the_weights_that_are_evaluated_and_no_more(tmp_path):
    run_dir = tmp_path / "study" / "form" / "0"
    config = tiny_config(run_dir, model="soft_intro", ema=0.9)
    data, model, objective = build(config)
    result = train(model, objective, data, config)
    save_record(config, result, evaluate(model, data, config))
    assert any(name.startswith("optimizer.") for name in load_checkpoint(run_dir).tensors)
    done = use(ROOT, "keep_weights", str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("study: 1 finished runs\n")
    assert {name.split(".")[0] for name in load_checkpoint(run_dir).tensors} == {"model", "average"}
    assert not list(run_dir.glob("*previous*"))
    kept = load_run(run_dir).model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
