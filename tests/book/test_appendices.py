"""The appendices say what is so: tests that exist, errors as the program words them, times within
the budget."""

import json
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from book_tools import tool
from conftest import ROOT
from PIL import Image

from asintrovae import (
    RunConfig,
    as_distance,
    build_data,
    build_features,
    histogram_divergences,
    load_run,
    train,
)
from asintrovae.running.train import explain_out_of_memory

from conftest import build, tiny_config  # isort: skip

BOOK = ROOT / "book"
appendices = tool("appendices")


def defined_tests():
    files = (ROOT / "tests").rglob("test_*.py")
    return set(re.findall(r"(?m)^def (test_\w+)", "".join(file.read_text() for file in files)))


def test_every_departure_names_its_test():
    rows, defined = list(appendices.departures(BOOK)), defined_tests()
    assert {chapter for chapter, *_ in rows} == {path.stem for path in appendices.chapters(BOOK)}
    for chapter, text, tests in rows:
        assert tests, f"{chapter}: {text} names no test"
        assert set(tests) <= defined, f"{chapter}: {text} names a test that does not exist"


def test_every_erratum_names_its_chapter_and_tests_that_exist():
    page = (BOOK / "appendix" / "errata.md").read_text()
    groups = [body.split("\n", 1) for body in page.split("\n## ")[1:]]
    assert [title for title, _ in groups] == [
        "Equations of the slides",
        "Published codes",
        "Protocol",
    ]
    chapters, defined = {path.stem for path in appendices.chapters(BOOK)}, defined_tests()
    for title, items in groups:
        errata = list(appendices.points(items))
        assert len(errata) > 5, title
        for text, tests in errata:
            linked = set(re.findall(r"\[\]\(\.\./(\w+)\)", text))
            assert linked, f"{text} links no chapter"
            assert linked <= chapters, f"{text} links a chapter that does not exist"
            assert set(tests) <= defined, f"{text} names a test that does not exist"


def test_chapters_execute_in_eight_minutes_together():
    runs = [
        nbformat.read(path, as_version=4).metadata["execution"]
        for path in appendices.chapters(BOOK)
    ]
    assert sum(run["seconds"] for run in runs) < 8 * 60
    assert all({"machine", "versions", "date"} <= run.keys() for run in runs)


ROWS = [
    {
        "B": B,
        "n": n,
        "kernel": "mean",
        "members": 0,
        "threads": 2,
        "path": path,
        "faster": 2.0,
        "smaller": 3.0,
    }
    | {"dense_seconds": B * n, "package_seconds": B, "dense_bytes": B * n, "package_bytes": B}
    for n in (2, 32)
    for B, path in ((32, "one tile"), (64, "tiles"), (128, "tiles"))
]
PLACE = {"processor": "a processor", "threads": 2, "system": "Linux", "python": "3", "torch": "2"}
TIMES = {
    "bare_seconds": 0.1,
    "overhead": 0.02,
    "compiled_seconds": 0.1,
    "eager_seconds": 0.2,
    "ours_seconds": 0.1,
}
RESULTS = {
    "distance": {
        "machine": PLACE,
        "rows": ROWS,
        "large": {"share_of_floor": 0.6, "dense_share_of_stream": 0.4, "dense_bytes_made": 3e9},
        "processes": {"package 4096 x 512": {"seconds": 60.0, "most": 1e9}},
    },
    "training_step": {
        "machine": PLACE,
        "rows": {
            name: {"seconds": 0.1, "operations": 4e9, "share_of_peak": 0.7}
            for name in ("published", "ours")
        },
        "peak": 1e11,
        "costs": {"aten::mm": 0.5},
        "loops": [{"model": "vae", "widths": [8, 8], "batch_size": 4, **TIMES}],
        "compiled": {
            "toy": None,
            "digits": {"compile_seconds": 60.0, "iterations": 9, "breaks_even": None, **TIMES},
        },
        "cuda": {"device": "a GPU", "faster": 4.0, "waits": 0, "costs": {"conv": 0.5}, **TIMES},
    },
    "book": {"machine": PLACE, "stages": {"pages": 61.2, "tests": 900.0}},
    "clone": {
        "machine": PLACE,
        "rows": [
            {
                "commit": commit,
                "date": "2026-01-01",
                "test": {"seconds": seconds, "stages": {"tests": 600.4}},
                "book": {"seconds": 311.0, "stages": {}},
            }
            for commit, seconds in (("1234567", 777.7), ("89abcde", 555.5))
        ],
    },
}


@pytest.fixture
def recorded(tmp_path):
    """A book's folder beside one record of benchmarks."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "here.json").write_text(json.dumps(RESULTS))
    return tmp_path / "book"


def test_the_page_on_speed_shows_what_was_recorded(recorded):
    said = {
        "distance": "2.0 times",
        "step": "4.00",
        "loops": "2.0%",
        "compiled": "no compiler",
        "cuda": "4.0 times",
    }
    said["stages"] = "900"
    said["clone"] = "778"
    for part in appendices.SPEED:
        text = appendices.speed(recorded, part)
        assert said[part] in text
        assert text.count("On a processor, 2 threads") == 1
    assert "never" in appendices.speed(recorded, "compiled")
    asked = re.findall(r"```\{speed\} (\w+)", (BOOK / "appendix" / "speed.md").read_text())
    assert set(asked) == {"chart", *appendices.SPEED}


def test_every_recorded_benchmark_can_be_shown():
    for part in appendices.SPEED:
        text = appendices.speed(BOOK, part)
        for record in appendices.results(BOOK):
            assert (
                appendices.SPEED[part][0] not in record
                or record[appendices.SPEED[part][0]]["machine"]["processor"] in text
            )


def test_the_chart_of_speed_is_drawn_when_the_book_is_built(recorded):
    before = dict(plt.rcParams)
    assert ":::{figure}" in appendices.speed(recorded, "chart")
    assert dict(plt.rcParams) == before
    picture = recorded.parent / "_build" / "speed" / "speed.png"
    assert picture.stat().st_size <= 150_000
    with Image.open(picture) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        assert len(image.convert("RGB").getcolors(10**6)) > 20, "an empty chart"


def test_what_was_not_recorded_is_no_error(recorded):
    path = recorded.parent / "benchmarks" / "results" / "here.json"
    path.write_text(json.dumps({"training_step": RESULTS["training_step"] | {"cuda": None}}))
    assert "Not measured" in appendices.speed(recorded, "cuda")
    assert (
        appendices.speed(recorded, "chart")
        == appendices.speed(recorded, "distance")
        == "Not recorded yet."
    )
    path.unlink()
    assert appendices.speed(recorded, "step") == "Not recorded yet."


def other_parameters(beta_kl):
    config = tiny_config("runs/toy", beta_kl=beta_kl, iterations=2)
    data, model, objective = build(config)
    train(model, objective, data, config)


def other_code(monkeypatch):
    monkeypatch.setattr("asintrovae.running.loop.code_hash", lambda: "another")
    other_parameters(0.3)


def a_giant(monkeypatch):
    monkeypatch.setattr("asintrovae.build.memory", lambda device: 16 * 2**30)
    build_data(RunConfig(batch_size=2**20, device="cpu"))


def a_full_gpu():
    with explain_out_of_memory(RunConfig(batch_size=512)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def a_file():
    Path("runs").mkdir()
    Path("runs/toy").write_text("")
    build_data(RunConfig(run_dir="runs/toy"))


def both_damaged():
    other_parameters(0.3)
    for path in Path("runs/toy").glob("*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    other_parameters(0.3)


PROVOKED = {
    "GiB of memory": a_giant,
    "OutOfMemoryError": lambda _: a_full_gpu(),
    "is a file": lambda _: a_file(),
    "modle": lambda _: RunConfig(modle="x"),
    "warmup=200": lambda _: RunConfig(warmup=200, iterations=1000),
    "device='": lambda _: RunConfig(device="cuda").torch_device(),
    "holds another run": lambda _: other_parameters(0.5),
    "another version": other_code,
    "no whole checkpoint": lambda _: both_damaged(),
    "devices=": lambda _: RunConfig(devices=3),
    "no record.json": lambda _: load_run("runs/toy"),
    "dataset='mnist'": lambda _: build_data(RunConfig(dataset="mnist")),
    "fid_weights=": lambda _: build_features(
        RunConfig(dataset="mnist", feature_network="inception", fid_weights="fid.pth")
    ),
    "'mnist-classifier'": lambda _: RunConfig(
        dataset="cifar10", feature_network="mnist-classifier"
    ),
    "latent axes": lambda _: as_distance(*torch.ones(2, 4, 2), *torch.ones(2, 4, 3)),
    "extent": lambda _: histogram_divergences(
        torch.zeros(3, 2), torch.full((3, 2), 9.0), (-2.0, 2.0)
    ),
}
QUOTED = re.findall(r"```text\n(.*)\n```", (BOOK / "appendix" / "troubleshooting.md").read_text())


@pytest.mark.parametrize("quoted", QUOTED)
def test_quoted_errors_are_what_the_program_says(quoted, tmp_path, monkeypatch):
    (provoke,) = [provoke for words, provoke in PROVOKED.items() if words in quoted]
    if "device='cuda'" in quoted and torch.cuda.is_available():
        pytest.skip("this machine has CUDA, so its absence is no error")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASINTROVAE_DATA", raising=False)
    if "another" in quoted:
        other_parameters(0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(
            (ValueError, FileNotFoundError, UserWarning, torch.OutOfMemoryError)
        ) as caught:
            provoke(monkeypatch)
    assert f"{caught.type.__name__}: {caught.value}" == quoted


def test_every_provoked_error_is_quoted():
    assert len(QUOTED) == len(PROVOKED)
