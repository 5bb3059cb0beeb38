"""Claims of the chapter on image results, from the recorded runs, and that these are the runs its sweeps describe."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT

from asintrovae.data.decode import read_row
from asintrovae.data.files import embedded
from asintrovae.grid import DONE, read_grid, state
from asintrovae.records import load_records

DATASETS = ("mnist", "cifar10", "flowers64")
CLAIMED = {"fid": -1, "psnr": 1, "ssim": 1, "mse": -1}


@pytest.fixture(scope="module")
def records():
    return {dataset: load_records(embedded(f"runs/images_{dataset}")) for dataset in DATASETS}


@pytest.fixture(scope="module")
def mnist(records):
    """Model and score -> values by seed."""

    def scores(model, name):
        return np.array([records["mnist"][f"{model}/{seed}"]["metrics"][name] for seed in range(3)])

    return scores


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_runs_of_the_chapter_are_those_of_its_sweeps(dataset, monkeypatch):
    """Same parameters (state refuses others), all there, and none that no sweep asked for."""
    run_dir, points = read_grid(ROOT / "book" / "training" / "sweeps" / f"images_{dataset}.yaml")
    assert run_dir.resolve() == embedded(f"runs/images_{dataset}")
    assert {state(point) in DONE for point in points} == {True}
    assert load_records(run_dir).keys() == {point.name for point in points}


def test_records_name_no_place_of_a_machine(records):
    for runs in records.values():
        for record in runs.values():
            assert not record["config"]["run_dir"].startswith("/")
            assert record["config"]["data_dir"] is record["config"]["fid_weights"] is None


def test_every_score_is_the_real_fid_of_a_thousand_images(records):
    for runs in records.values():
        for name, record in runs.items():
            assert record["config"]["feature_network"] == "inception", name
            assert record["metrics"]["feature_samples"] == 1000
            assert record["metrics"]["fid"] is None or record["metrics"]["fid"] > 0


def test_the_pictures_are_of_the_last_checkpoint_and_small():
    for dataset in DATASETS:
        runs = embedded(f"runs/images_{dataset}")
        for name in load_records(runs):
            for path in (runs / name).rglob("*.png"):
                assert path.stat().st_size < 150_000, path
            if name.endswith("/0"):
                assert len(read_row(runs / name / "pictures" / "generated.png")) == 16
    progress = embedded("runs/images_mnist") / "as_intro" / "0" / "progress" / "0001000.png"
    generated = read_row(progress.parents[1] / "pictures" / "generated.png")
    torch.testing.assert_close(read_row(progress), generated, atol=0.01, rtol=0)


def test_the_published_numbers_are_those_of_the_chapter_on_measures():
    """Typed in two chapters; they must not come apart."""
    measures = (ROOT / "book" / "src" / "08_measures.md").read_text()
    found = {"NaN": float("nan")}
    source = (ROOT / "book" / "src" / "13_image_results.md").read_text()
    exec(re.search(r"^published_fid = \{.*?^\}", source, flags=re.DOTALL | re.MULTILINE)[0], found)
    exec(re.search(r"^published_scores = \{.*?^\}", source, flags=re.DOTALL | re.MULTILINE)[0], found)
    for name, row in (("mnist", "MNIST"), ("cifar10", "CIFAR-10")):
        scores = found["published_fid"][name]
        assert " | ".join([row, *(f"{scores[model]:.2f}" for model in ("wgan_gp", "soft_intro", "as_intro"))]) in measures
    for name, row in (("mnist", "MNIST"), ("cifar10", "CIFAR-10"), ("flowers64", "Oxford")):
        here = [float(x) for model in ("soft_intro", "as_intro") for x in found["published_scores"][name][model].split()]
        (there,) = re.findall(rf'^    "{row}": (\(\(.*\)\)),$', measures, flags=re.MULTILINE)
        assert here == [float(x) for x in re.findall(r"[\d.]+", there)]


def judged(d):
    clear = len(d) > 1 and abs(d.mean()) > 2 * d.std(ddof=1)
    return "held" if clear and (d > 0).all() else "did not hold" if clear and (d < 0).all() else "undecided"


def printed(words):
    """The output of the chapter's cell that prints these words."""
    cells = json.loads((ROOT / "book" / "13_image_results.ipynb").read_text())["cells"]
    texts = ["".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", [])]
    (text,) = [text for text in texts if words in text]
    return text


def test_verdicts_follow_the_rule(mnist):
    """What the chapter prints, computed from the records by numpy."""
    said = re.findall(r"^  (\w+) .*? (held|did not hold|undecided)$", printed("minus S-IntroVAE"), flags=re.MULTILINE)
    assert len(said) == 3 * 4
    for name, verdict in said[:4]:
        assert verdict == judged(CLAIMED[name] * (mnist("as_intro", name) - mnist("soft_intro", name)))
    assert {verdict for _, verdict in said[4:]} == {"undecided"}  # one seed


def test_the_ablation_of_the_text(mnist):
    annealed, fixed, without = ("as_intro", "as_intro-c0.5", "as_intro-c0")
    for name in ("fid", "psnr", "mse"):
        assert judged(CLAIMED[name] * (mnist(annealed, name) - mnist(without, name))) == "held"
    assert mnist(without, "psnr").max() < mnist("vae", "psnr").min() - 2
    assert (mnist(annealed, "fid") < mnist(fixed, "fid")).all()
    assert (mnist(annealed, "psnr") < mnist(fixed, "psnr")).all()
    assert {judged(CLAIMED[name] * (mnist(annealed, name) - mnist(fixed, name))) for name in CLAIMED} == {"undecided"}


def test_the_levels_of_the_text(mnist, records):
    for model, published in (("soft_intro", 98.84), ("as_intro", 96.16)):
        assert abs(mnist(model, "fid").mean() - published) < 2 * mnist(model, "fid").std(ddof=1)
    assert mnist("wgan_gp", "fid").max() < min(mnist(model, "fid").min() for model in ("vae", "intro", "soft_intro", "as_intro"))
    assert max(mnist(model, "precision_inception").max() for model in ("vae", "intro", "soft_intro", "as_intro")) < 0.05
    colour = {name: run["metrics"] for name, run in records["cifar10"].items()}
    assert colour["soft_intro/0"]["fid"] < 275.20 - 40
    assert colour["as_intro/0"]["fid"] < 271.69 - 40
    assert max(run["recall_inception"] for run in colour.values()) < 0.01
    assert colour["intro/0"]["precision_inception"] > 0.6
    assert max((run.get("psnr", 0), name) for name, run in colour.items())[1] == "vae/0"
