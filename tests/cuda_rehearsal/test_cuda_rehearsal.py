"""The package on a pretended GPU: what a card would refuse, wait for, or need too much of.

`scenes.py` plays each scene in a process of its own; here stands what it may count. Numbers are of
the torch version that `cuda_stub.TRIED` names.
"""

import ast
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MODELS, ROOT
from cuda_stub import reason_to_skip

pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "it runs")
GiB = 2**30
KINDS = ("points", "images")
CHAPTERS = sorted(path.stem for path in (ROOT / "book/src").glob("[01]*.md"))


def launches_of_the_page():
    """Scene -> most kernels of one iteration, from the table of the page on speed."""
    text = (ROOT / "book/appendix/speed.md").read_text()
    cells = re.findall(r"^\| (\S+) " + r"\| \d+ → (\d+) " * 4 + r"\|$", text, re.MULTILINE)
    columns = ("iteration:points", "iteration:images", "iteration:cifar10", "bf16:cifar10")
    titles = ("VAE", "IntroVAE", "S-IntroVAE", "AS-IntroVAE", "WGAN-GP")
    assert [title for title, *_ in cells] == list(titles)
    return {
        f"{column}:{model}": int(count)
        for model, (_, *counts) in zip(MODELS, cells, strict=True)
        for column, count in zip(columns, counts, strict=True)
    }


LAUNCHES = launches_of_the_page()
PER_MODEL = ("iteration:cifar10", "bf16:cifar10", "ensemble")
EVERY = [f"{kind}:{model}" for kind in KINDS for model in MODELS]
FAULTS = (
    "blocking copy",
    "noise on the CPU",
    "item in a loss",
    "a branch on a value",
    "a mask as index",
    "a constant on the CPU",
    "a constant from Python",
    "float64 on the device",
    "every term logged",
    "more launches",
)
SOME = {
    "iterations": ["bf16:images:soft_intro", "ensemble:as_intro", "processes:images:as_intro"],
    "runs": ["whole:points:wgan_gp", "whole:images:as_intro", "notebook:toy", "notebook:images"],
    "memory": ["graphs:points:as_intro", "graphs:images:as_intro"],
    "more": ["moves:points:as_intro", "moves:images:as_intro", "moves:images:wgan_gp"],
}
GROUPS = {
    "iterations": [*(f"iteration:{one}" for one in EVERY), *SOME["iterations"]],
    "runs": [*SOME["runs"], "kept:36863", "kept:36864"],
    "memory": [*SOME["memory"], "memory:celeba128", "memory:celeba256"],
    "more": [*SOME["more"], *(f"{what}:{one}" for what in ("bf16", "graphs") for one in EVERY)],
    "models": [f"{what}:{model}" for what in PER_MODEL for model in MODELS],
    "chapters": [f"chapter:{name}:20" for name in CHAPTERS],
    "faults": [f"fault:{name}" for name in FAULTS],
}
"""Scenes that are played in one process."""
WEEKLY = ("more", "models", "chapters", "faults")


def scenes(first):
    """Parameters of a test: every scene of this kind, with its group, once."""
    found = {}
    for group, names in GROUPS.items():
        for name in names:
            if name.split(":")[0] == first:
                found.setdefault(name, group)
    marks = {group: [pytest.mark.xdist_group(f"cuda {group}")] for group in GROUPS}
    for group in WEEKLY:
        marks[group].append(pytest.mark.weekly)
    return [pytest.param(group, name, id=name, marks=marks[group]) for name, group in found.items()]


@functools.cache
def played(group):
    """Name -> what was counted, of a group of scenes."""
    here = Path(__file__).parent
    folders = [str(ROOT), str(here), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    environment["TQDM_DISABLE"] = "1"
    command = [sys.executable, str(here / "scenes.py"), *GROUPS[group]]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    counted = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            counted |= json.loads(line)
    return counted


def problems(scene, counted, waits=True):
    """What is wrong with a scene, a line each."""
    if "error" in counted:
        return [counted["error"]]
    found = [f"float64 on the device, which mps has not: {line}" for line in counted["doubles"]]
    found += counted["waits"] if waits else []
    budget = LAUNCHES.get(scene, counted["launches"])
    if counted["launches"] > budget:
        found.append(f"{counted['launches']} launches, {budget} allowed: {counted['by_kernel']}")
    return found


@pytest.mark.parametrize(("group", "scene"), scenes("iteration") + scenes("bf16"))
def test_an_iteration_mixes_no_devices_waits_for_nothing_and_keeps_its_budget(group, scene):
    assert problems(scene, played(group)[scene]) == []
    if scene in LAUNCHES:  # fewer are good news for the page
        assert played(group)[scene]["launches"] == LAUNCHES[scene]


@pytest.mark.parametrize(("group", "scene"), scenes("ensemble"))
def test_an_iteration_of_an_ensemble_waits_for_nothing(group, scene):
    assert problems(scene, played(group)[scene]) == []


@pytest.mark.parametrize(("group", "scene"), scenes("iteration"))
def test_noise_and_batch_reach_the_card_in_few_copies(group, scene):
    """A batch of points, or the numbers of its images and which are mirrored; then the noise."""
    counted = played(group)[scene]
    steps = {"vae": 1, "wgan_gp": 6}.get(scene.split(":")[2], 2)
    batches = 5 if "wgan_gp" in scene else 1
    assert counted["copies"] == steps + batches * (2 if "images" in scene else 1)


@pytest.mark.parametrize(("group", "scene"), scenes("whole") + scenes("notebook"))
def test_training_evaluation_and_notebooks_mix_no_devices(group, scene):
    counted = played(group)[scene]
    assert problems(scene, counted, waits=False) == []
    assert counted.get("status", "finished") == "finished"
    assert counted.get("device", "cuda") == "cuda"


@pytest.mark.parametrize(("group", "scene"), scenes("kept"))
def test_a_large_set_goes_to_the_card_where_it_takes_a_quarter(group, scene):
    """An image a copy, which is waited for while the others are decoded."""
    kept = scene == "kept:36864"
    images = 12 * kept
    wanted = {"kept": kept, "device": "cuda:0", "copies": images, "waits": images}
    assert played(group)[scene] == wanted


@pytest.mark.parametrize(("group", "scene"), scenes("moves"))
def test_a_run_moves_between_card_and_cpu(group, scene):
    assert played(group)[scene] == {"starts": [2, 2]}


@pytest.mark.parametrize(("group", "scene"), scenes("graphs"))
def test_the_loss_of_a_phase_is_one_graph(group, scene):
    counted = played(group)[scene]
    assert "error" not in counted, counted
    assert set(counted["breaks"].values()) == {""}


@pytest.mark.parametrize(("group", "scene"), scenes("processes"))
def test_batchnorm_of_several_processes_exchanges_once_each_way(group, scene):
    """Besides, each phase gathers the posteriors there and back, and averages its gradients."""
    counted = played(group)[scene]
    assert problems(scene, counted) == []
    calls = counted["by_kernel"]["cudnn_batch_norm"]
    assert calls < counted["exchanges"] <= 2 * calls + 10


@pytest.mark.parametrize(("group", "scene"), scenes("memory"))
def test_evaluating_10000_images_needs_less_than_training(group, scene):
    counted = played(group)[scene]
    assert "error" not in counted, counted
    training = {"memory:celeba128": 8, "memory:celeba256": 16}[scene]
    assert counted["training"] < training * GiB
    assert counted["evaluation"] < 4.2 * GiB, counted["at"]


@pytest.mark.parametrize(("group", "scene"), scenes("chapter"))
def test_cells_of_a_chapter_mix_no_devices(group, scene):
    counted = played(group)[scene]
    assert "error" not in counted, counted
    assert counted["done"] > 0


@pytest.mark.parametrize(("group", "scene"), scenes("fault"))
def test_a_planted_fault_is_flagged(group, scene):
    allowed = LAUNCHES["iteration:points:soft_intro"]
    counted = played(group)[scene]
    assert problems(scene, counted) or counted["launches"] > allowed


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_computes_on_the_device_that_it_names(name):
    """Else a reader's GPU would take the model, and a tensor of the next cell would stay behind."""
    cells = re.findall(
        r"^```\{code-cell\}.*?\n(.*?)^```$",
        (ROOT / f"book/src/{name}.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    names_it = any('"device": "cpu"' in cell for cell in cells)
    for cell in cells:
        code = re.sub(r"\A---\n.*?^---\n", "", cell, flags=re.MULTILINE | re.DOTALL)
        code = re.sub(r"^(:.*|\s*[%!].*)\n", "", code, flags=re.MULTILINE)
        code = code.replace("except ImportError:\n", "except ImportError:\n    pass\n")
        for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") != "RunConfig" or "build_" not in code:
                continue
            given = {keyword.arg for keyword in call.keywords}
            assert "device" in given or (None in given and names_it), ast.unparse(call)
