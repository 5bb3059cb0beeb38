"""The page on your own images: its commands and its code in a tiny form, its numbers against the
parameter files."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from here import papermill_here
from PIL import Image
from test_chapter_10 import bash

from asintrovae import RunConfig, load_run
from asintrovae.data.image_files import read_row
from asintrovae.evaluation.measures import steepest_edge
from asintrovae.files import embedded

pytestmark = pytest.mark.xdist_group("own_images")  # one worker runs the command once
TEXT = (ROOT / "book" / "own_images.md").read_text()
PARAMS = ROOT / "book" / "training" / "params"
COMMANDS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
SOFT = next(command for command in COMMANDS if "soft_intro" in command)  # what CODE reads
CODE = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
TINY = {"iterations": 6, "milestones": [], "batch_size": 4, "widths": [4, 8], "threads": 1}
TINY |= {"log_every": 2, "checkpoint_every": 2, "evaluation_samples": 4, "resolution": 64}


def preset(name):
    return yaml.safe_load((PARAMS / name).read_text())


def in_tiny_form(command, folder):
    """The command on a folder of its own, with parameters of a few iterations that come last."""
    tiny = TINY | {"device": "cpu"}
    command = command.replace("out.ipynb", f"{folder}/out.ipynb")
    command = command.replace("my-images", f"{folder}/my-images").replace("runs/", f"{folder}/")
    return command.replace(" \\\n  -p data_dir", f" \\\n  -y '{json.dumps(tiny)}' -p data_dir")


def pictures_in(folder):
    """Twenty pictures below a folder, not square; the folder."""
    (folder / "my-images").mkdir()
    generator = torch.Generator().manual_seed(20220723)
    for i in range(20):
        pixels = torch.randint(256, (70, 90, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / "my-images" / f"{i:02d}.jpg")
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Folder in which the first command of S-IntroVAE has run, by a shell and with a kernel."""
    folder = pictures_in(tmp_path_factory.mktemp("first"))
    bash(in_tiny_form(SOFT, folder))
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda text: re.search(r"own-\d+", text)[0])
def test_commands_train(command, first, tmp_path):
    """One as a reader gives it, the others in this process."""
    folder = first
    if command != SOFT:
        folder = pictures_in(tmp_path)
        papermill_here(in_tiny_form(command, folder))
    (name,) = re.findall(r"-p run_dir runs/(\S+)", command)
    run = load_run(folder / name)
    assert run.record["status"] == "finished"
    (model,) = re.findall(r"model/(\w+)\.yaml", command)
    assert (run.config.model, run.config.dataset) == (model, "folder")
    given = preset(re.search(r"own-\d+\.yaml", command)[0])
    assert run.config.beta_neg == given["beta_neg"]
    assert run.config.devices == (2 if "devices" in command else 1)
    read = {"joint.kl"} if model == "vae" else {"encoder.rec", "encoder.kl", "encoder.kl_g"}
    assert read <= run.history[-1].keys()
    assert "active_units" in run.record["metrics"]
    progress = {path.stem for path in (folder / name / "progress").iterdir()}
    assert progress == {"0000000", "0000002", "0000004", "0000006"}


def test_code_uses_the_run(first, tmp_path, monkeypatch, capsys):
    (tmp_path / "my-images").symlink_to(first / "my-images")
    shutil.copytree(first / "mine", tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(CODE, found)
    assert capsys.readouterr().out.startswith("torch.Size([16, 3, 64, 64]) {")
    assert len(list(Path("samples").glob("0*.png"))) == 16
    both = read_row(Path("samples/reconstructed.png"))
    assert torch.allclose(both[:2], found["x"], atol=0.01)
    path = read_row(Path("samples/interpolation.png"))
    assert len(path) == 8
    assert torch.allclose(
        path[[0, -1]], found["x_r"].clamp(0, 1), atol=0.01
    )  # it ends at both images
    near, train = read_row(Path("samples/nearest.png")), found["train"]
    apart = (found["images"][:, None] - train).pow(2).sum((2, 3, 4))
    assert torch.allclose(near, train[apart.argmin(1)], atol=0.01)


def test_the_table_of_presets_is_that_of_the_files():
    """And each T is that of its epochs."""
    rows = re.findall(
        r"^\| ([\d,]+)[^|]*\| `(own-\d+\.yaml)` \| (.*) \|$", TEXT, flags=re.MULTILINE
    )
    assert len(rows) == len(list(PARAMS.glob("own-*.yaml"))) == 3
    for count, name, cells in rows:
        pixels, B, epochs, T, rate = (float(cell.replace(",", "")) for cell in cells.split(" | "))
        given = preset(name)
        assert [pixels, B, T, rate] == [
            given[key] for key in ("resolution", "batch_size", "iterations", "learning_rate")
        ]
        assert epochs * (int(count.replace(",", "")) * 9 // 10) // B == T
        RunConfig(**given)


def test_the_example_of_a_length():
    epochs, B, T = re.search(
        r"(\d+) epochs of batches of (\d+) are \$T = ([\d{},]+)\$", TEXT
    ).groups()
    assert 2700 * int(epochs) // int(B) == int(re.sub(r"\D", "", T))


def test_weights_by_resolution_are_those_of_the_files():
    """And v is the balance of Eq. (3.4), for images of that size."""
    cells = r"^\| (\d+)(, grey)? \| (\d+) \| ([\d.]+) \| ([\d.]+) \| (.*) \|$"
    rows = re.findall(cells, TEXT, flags=re.MULTILINE)
    assert len(rows) == 5
    for pixels, grey, beta_neg, beta_kl, v, file in rows:
        given = float(beta_neg), float(beta_kl)
        for name in re.findall(r"`(.*?)`", file):
            assert (preset(name)["beta_neg"], preset(name)["beta_kl"]) == given
        numbers = int(pixels) ** 2 * (1 if grey else 3)
        balance = numbers / (2 * given[0]) * math.log(given[0] / given[1])
        assert float(v) == pytest.approx(balance, rel=0.01)
    for name in PARAMS.glob("own-*.yaml"):
        given = preset(name)
        row = re.search(rf"^\| {given['resolution']} \| (\d+) \| ([\d.]+) \|", TEXT, re.MULTILINE)
        assert [float(cell) for cell in row.groups()] == [given["beta_neg"], given["beta_kl"]]


@pytest.mark.parametrize("name", ["vae", "vae-kl0.1", "soft_intro", "as_intro"])
def test_the_recorded_runs_are_those_of_the_first_preset(name):
    run = load_run(embedded("runs/own_images") / name)
    given = preset("own-100.yaml") | preset(f"model/{name.partition('-')[0]}.yaml")
    given |= {"beta_kl": 0.1} if name == "vae-kl0.1" else {}
    config = run.record["config"]
    assert {key: config[key] for key in given} == given
    assert "-p precision bf16-mixed -p channels_last true -p threads 1" in TEXT
    assert (config["precision"], config["channels_last"], config["threads"]) == ("bf16-mixed", 1, 1)
    assert run.record["status"] == "finished"


def test_what_the_page_says_of_the_recorded_runs():
    text, folder = " ".join(TEXT.split()), embedded("runs/own_images")
    names = ("vae", "soft_intro", "vae-kl0.1")
    records = [load_run(folder / name).record for name in names]
    vae, soft, less = (record["metrics"] for record in records)
    lost = load_run(folder / "as_intro")
    assert f"{lost.record['metrics']['psnr']:.1f} dB on the test pictures" in text
    errors = {row["iteration"]: row["encoder.rec"] for row in lost.history}
    assert f"grew from {errors[196]:.0f} to {errors[364] / 1e6:.0f} million" in text
    assert f"with {less['psnr']:.1f} dB. It spends {less['kl']:.0f} nats" in text
    soft_took, less_took = (round(record["seconds"] / 60) for record in records[1:])
    assert f"S-IntroVAE took {soft_took} minutes and the" in text
    assert f"with a tenth of $\\beta_{{kl}}$ {less_took}. (" in text
    assert f"{soft['psnr']:.1f} dB for S-IntroVAE and {vae['psnr']:.1f} dB for the VAE" in text
    assert f"spends {soft['kl']:.0f} nats a picture" in text
    assert f"and the VAE {vae['kl']:.0f}." in text
    samples, near = (
        read_row(folder / "soft_intro" / "pictures" / f"{name}.png")
        for name in ("generated", "nearest")
    )
    apart = (samples - near).square().mean((1, 2, 3)).sqrt().min()
    assert f"is at least {apart:.2f} over its ten samples" in text
    pictures = ("soft_intro/pictures/generated", "vae/pictures/generated", "vae/pictures/real")
    edges = [steepest_edge(read_row(folder / f"{name}.png")).median() for name in pictures]
    assert "is {:.2f} for S-IntroVAE and {:.2f} for the VAE".format(*edges[:2]) in text
    assert f"the photographs have {edges[2]:.2f}" in text
    edge = steepest_edge(read_row(folder / "vae-kl0.1" / "pictures" / "generated.png")).median()
    assert f"its edges have {edge:.2f}" in text
