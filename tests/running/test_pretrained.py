"""Trained models by name: what they draw, what their cards say, and errors in one line."""

import json
import shutil
import time

import pytest
import torch
from book_tools import tool
from conftest import ROOT

from asintrovae import (
    ParameterError,
    RunConfig,
    build_data,
    evaluate,
    load_pretrained,
    load_run,
    model_card,
    pretrained,
    sample,
)
from asintrovae.config import FREE, POINTS, marked
from asintrovae.data import example_shape
from asintrovae.ranges import check_other_range
from asintrovae.trained import card_text, names

FOLDER = ROOT / "data" / "pretrained"
NAMES = names()
each_model = pytest.mark.parametrize("name", NAMES)
RUNS = {
    "mnist_ten_epochs/vae": "vae-mnist",
    "mnist_ten_epochs/soft_intro": "soft_intro-mnist",
    "mnist_ten_epochs/as_intro": "as_intro-mnist",
    "mnist_intro/intro": "intro-mnist",
    "toy_board/as_intro": "as_intro-checkerboard",
    "toy_drawing/soft_intro": "soft_intro-8gaussians",
}
"""Folders of runs that keep their checkpoints -> models made from them."""


def config_of(name):
    return RunConfig(**model_card(name)["config"], device="cpu")


def test_the_models_are_these():
    points = {f"{model}-{data}" for model in ("vae", "soft_intro", "as_intro") for data in POINTS}
    digits = {"vae-mnist", "soft_intro-mnist", "as_intro-mnist"}
    assert set(NAMES) >= points | digits
    assert [row["name"] for row in pretrained().rows] == NAMES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12_000_000


@each_model
def test_it_draws_what_its_seed_says(name):
    model = load_pretrained(name)
    drawn = sample(model, 16, seed=0)
    assert drawn.shape == (16, *example_shape(config_of(name)))
    assert bool(drawn.isfinite().all())
    assert not model.training
    assert torch.equal(drawn, sample(load_pretrained(name), 16, seed=0))
    assert not torch.equal(drawn, sample(model, 16, seed=1))
    if drawn.dim() == 4:
        check_other_range(name, drawn, generated=True)


@pytest.mark.parametrize(("group", "name"), RUNS.items())
def test_it_is_the_model_of_its_run(group, name):
    seed = model_card(name)["seeds"]["chosen"]
    run = load_run(ROOT / "data" / "runs" / group / str(seed))
    assert torch.equal(sample(run.model, 16, seed=3), sample(load_pretrained(name), 16, seed=3))


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("-")[1] in POINTS])
def test_its_score_can_be_measured_again(name):
    config, scores = config_of(name), model_card(name)["scores"]
    found = evaluate(load_pretrained(name), build_data(config), config)
    assert found["protocol_kl"] == pytest.approx(scores["protocol_kl"]["value"], rel=0.02)


@each_model
def test_its_card_is_complete(name):
    card = model_card(name)
    text, seeds, config = card_text(card), card["seeds"], card["config"]
    assert card["name"] == name == f"{config['model']}-{config['dataset']}"
    assert not set(config) & set(marked(FREE))
    assert seeds["chosen"] in seeds["trained"]
    assert config["seed"] == seeds["chosen"]
    if len(seeds["trained"]) > 1:  # the best one on validation data
        assert {str(seed) for seed in seeds["trained"]} == set(seeds["validation"])
        assert min(seeds["validation"], key=seeds["validation"].get) == str(seeds["chosen"])
        headline = card["scores"][card["headline"]]
        assert headline["low"] < headline["mean"] < headline["high"]
        assert headline["value"] == headline["seeds"][seeds["trained"].index(seeds["chosen"])]
    assert 2 <= len(card["limits"]) <= 3
    assert len(card["code"]) == 64
    for part in ("Data", "Seeds", "Settings", "Made", "Weights", "Limits", "Licence: "):
        assert part in text
    assert card["data"]["licence"] in text
    assert "runs/" not in text


def test_the_nearest_name_is_offered():
    with pytest.raises(ParameterError) as error:
        load_pretrained("as_intro-mnis")
    said = f"did you mean 'as_intro-mnist'? pretrained() lists all {len(NAMES)}"
    assert str(error.value) == f"name='as_intro-mnis' is no trained model; {said}"
    for other in ("", "../pretrained/vae-mnist", "x" * 1000, 3, None):
        with pytest.raises(ParameterError, match="pretrained\\(\\) lists all"):
            load_pretrained(other)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """Folder with a model that may be damaged."""
    for ending in ("json", "safetensors"):
        shutil.copy(FOLDER / f"vae-rings.{ending}", tmp_path)
    monkeypatch.setattr("asintrovae.trained.embedded", lambda name: tmp_path)
    return tmp_path


def test_damaged_and_missing_files_are_named(copied):
    load_pretrained("vae-rings")
    weights, card = copied / "vae-rings.safetensors", copied / "vae-rings.json"
    content, text = weights.read_bytes(), card.read_text()
    weights.write_bytes(content[:-1])
    with pytest.raises(ParameterError, match=r"safetensors cannot be read \(its SHA-256 .*reinst"):
        load_pretrained("vae-rings")
    weights.unlink()
    with pytest.raises(ParameterError, match=r"rings.safetensors cannot be read .*reinstall"):
        load_pretrained("vae-rings")
    for damaged in ("", text[:99], "[]", json.dumps({"name": "vae-rings"})):
        card.write_text(damaged)
        with pytest.raises(ParameterError, match=r"rings.json cannot be read .*reinstall") as error:
            load_pretrained("vae-rings")
        assert "\n" not in str(error.value)


def test_a_device_that_is_missing_is_named():
    with pytest.raises(ParameterError, match="device="):
        load_pretrained("vae-rings", device="gpu")


def test_a_group_becomes_a_model(tmp_path):
    """The seed is the best one on validation points, and the files are those of the project."""
    publish = tool("publish_pretrained")
    publish.publish(ROOT / "data" / "runs" / "toy_board" / "vae", tmp_path)
    made = json.loads((tmp_path / "vae-checkerboard.json").read_text())
    kept = model_card("vae-checkerboard")
    assert made["seeds"]["chosen"] == kept["seeds"]["chosen"]
    for seed, score in kept["seeds"]["validation"].items():
        assert made["seeds"]["validation"][seed] == pytest.approx(score, rel=0.02)
    assert made["weights"] == kept["weights"]
    with pytest.raises(SystemExit, match="needs finished runs with their checkpoints"):
        publish.publish(tmp_path, tmp_path)


def test_the_line_of_the_readme_works_with_the_wheel_alone(reader):
    code = "from asintrovae import load_pretrained, sample; import time; begun = time.time(); "
    code += "print(*sample(load_pretrained('as_intro-mnist'), 16, seed=0).shape); "
    begun = time.time()
    result = reader.run("-c", code + "print(time.time() - begun)")
    assert result.returncode == 0, result.stderr
    shape, seconds = result.stdout.splitlines()
    assert shape == "16 1 28 28"
    assert float(seconds) < 10
    assert time.time() - begun < 120


def test_a_model_goes_through_a_folder_of_the_hub(tmp_path):
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    from asintrovae.hub import load_from_hub, save_to_hub_folder

    save_to_hub_folder("vae-rings", tmp_path / "rings")
    model = load_from_hub(tmp_path / "rings")
    assert torch.equal(sample(model, 16, seed=0), sample(load_pretrained("vae-rings"), 16, seed=0))
    readme = (tmp_path / "rings" / "README.md").read_text()
    assert readme.startswith("---\nlicense: ")
    assert readme.rstrip().endswith(card_text(model_card("vae-rings")).rstrip())
