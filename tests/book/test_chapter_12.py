"""Claims of the chapter on toy results, from the recorded runs, and that these are the runs its
sweeps describe."""

import re

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from results import judged, printed
from scipy import stats

from asintrovae import build_data, histogram_divergences, load_run
from asintrovae.config import with_defaults
from asintrovae.evaluation.evaluate import sample
from asintrovae.evaluation.statistics import equivalence, ratio
from asintrovae.files import embedded
from asintrovae.running.records import load_records, load_samples
from asintrovae.sweeps.grid import read_grid
from asintrovae.sweeps.status import DONE, status_of

pytestmark = pytest.mark.xdist_group("chapter_12")  # one worker makes its fixtures once

SWEEPS = ROOT / "book" / "training" / "sweeps"
PARAMS = ROOT / "book" / "training" / "params"
SETTINGS = [f"{dataset}-c{k}" for dataset in ("8gaussians", "checkerboard") for k in (1, 2, 3)]
SWEEPS_DONE = [
    "toy_laptop",
    "toy_map",
    "toy_annealed",
    "toy_ablation",
    "toy_tuned",
    "toy_drawing",
    "toy_board",
]
SHARE = 0.998  # of real points that the judge of the chapter accepts
REFERENCE = ["vae", "intro", "soft_intro", "as_intro"]
MODELS = ["vae", "intro", "soft_intro", "as_intro-mean", "as_intro-product"]


@pytest.fixture(scope="module")
def laptop():
    return load_records(embedded("runs/toy_laptop"))


def scores(records, name, metric="protocol_kl"):
    """A metric by seed of the runs that did not diverge."""
    runs = [record for path, record in records.items() if path.rpartition("/")[0] == name]
    return np.array([run["metrics"][metric] for run in runs if run["status"] == "finished"])


@pytest.mark.parametrize("name", SWEEPS_DONE)
def test_the_runs_of_the_chapter_are_those_of_its_sweeps(name):
    """Same parameters (status_of refuses others), all there, and none that no sweep asked for."""
    run_dir, points = read_grid(SWEEPS / f"{name}.yaml")
    assert run_dir.resolve() == embedded(f"runs/{name}")
    assert {status_of(point) in DONE for point in points} == {True}
    assert load_records(run_dir).keys() == {point.name for point in points}


def test_the_large_runs_are_points_of_the_reference_sweep_and_reach_the_published_level():
    run_dir, points = read_grid(SWEEPS / "toy_reference_3_layers.yaml")
    done = {point.name: point for point in points if status_of(point) in DONE}
    assert (
        done.keys()
        == load_records(run_dir).keys()
        >= {f"8gaussians-c1/{model}/0" for model in REFERENCE}
    )
    metrics = {
        name: load_records(run_dir)[f"8gaussians-c1/{name}/0"]["metrics"] for name in REFERENCE
    }
    assert [metrics[name]["modes_found"] for name in ("soft_intro", "as_intro", "intro")] == [
        8,
        8,
        4,
    ]
    for name in ("soft_intro", "as_intro"):
        assert metrics[name]["protocol_kl"] < 3.4
        assert metrics[name]["protocol_jsd"] < 5.6
    assert metrics["intro"]["protocol_kl"] < 192.4 / 2
    assert metrics["intro"]["protocol_jsd"] < 56.0 / 1.5
    assert metrics["vae"]["protocol_kl"] > 200


def test_the_reference_sweep_has_the_published_networks_and_form():
    """Four hidden layers; its last model is that of the parameter file of the published code."""
    _, points = read_grid(SWEEPS / "toy_reference.yaml")
    models = ["vae", "intro", "soft_intro", "as_intro", "as_intro-official"]
    assert [point.name for point in points] == [f"8gaussians-c1/{model}/0" for model in models]
    read = [PARAMS / name for name in ("8gaussians-c1.yaml", "model/as_intro-official.yaml")]
    row, official = (yaml.safe_load(path.read_text()) for path in read)
    for point in points:
        model = point.labels["model"]
        extra = official if model == "as_intro-official" else {"model": model}
        for name, value in (row | extra).items():
            assert getattr(point.config, name) == (
                tuple(value) if isinstance(value, list) else value
            )


def test_the_tables_have_neither_draws_nor_sinusoids(laptop):
    tables = [*laptop.values(), *load_records(embedded("runs/toy_reference")).values()]
    for name in ("decoder_std", "fourier_features"):
        assert {with_defaults(record["config"])[name] for record in tables} == {0}
        near = [
            load_records(embedded(f"runs/{folder}")).values()
            for folder in ("toy_drawing", "toy_board")
        ]
        assert any(record["config"].get(name) for records in near for record in records)


def test_records_hold_relative_folders_only():
    for name in (*SWEEPS_DONE, "toy_reference"):
        for record in load_records(embedded(f"runs/{name}")).values():
            assert not record["config"]["run_dir"].startswith("/")
            assert record["config"]["data_dir"] is None


def test_the_published_numbers_are_those_of_the_chapter_on_measures():
    """Typed in two chapters; they must not come apart."""
    measures = (ROOT / "book" / "src" / "08_measures.md").read_text()
    rows = re.findall(
        r"^\| (8 Gaussians|checkerboard|) ?\| (C\d) \| (.*?) \|$", measures, flags=re.MULTILINE
    )
    there = [[cell.strip() for cell in row[2].split("|")][:4] for row in rows]
    source = (ROOT / "book" / "src" / "12_toy_results.md").read_text()
    block = re.search(r"^published = \{.*?^\}", source, flags=re.DOTALL | re.MULTILINE)[0]
    found = {"NaN": float("nan")}
    exec(block, found)
    here = [
        ["NaN" if kl != kl else f"{kl} / {jsd}" for kl, jsd in row]
        for row in found["published"].values()
    ]
    assert len(here) == 6
    assert here == there


def test_verdicts_follow_the_rule(laptop):
    """What the chapter's table of verdicts prints, computed from the records by numpy."""
    rows = re.findall(
        r"^(\S+-c\d)\s+(mean|product)\b.*  (\S.*); (\S.*)$",
        printed("12_toy_results", "log ratios"),
        flags=re.MULTILINE,
    )
    assert len(rows) == 12
    for setting, kernel, *said in rows:
        for verdict, metric in zip(said, ("protocol_kl", "protocol_jsd"), strict=True):
            one, other = (
                scores(laptop, f"{setting}/{model}", metric)
                for model in ("soft_intro", f"as_intro-{kernel}")
            )
            assert len(one) == len(other) == 5
            assert verdict == judged(np.log(one) - np.log(other)) == "undecided"
    assert judged(np.array([1.0, 1.1, 0.9])) == "held"
    assert judged(-np.array([1.0, 1.1, 0.9])) == "did not hold"


def test_no_run_diverged_and_none_of_as_intro_reaches_the_published_scores(laptop):
    assert {record["status"] for record in laptop.values()} == {"finished"}
    published = {"c1": 3.4, "c2": 1.3, "c3": 2.0}
    for c, score in published.items():
        for kernel in ("mean", "product"):
            assert scores(laptop, f"8gaussians-{c}/as_intro-{kernel}").min() > 1.5 * score


def test_mode_counts_of_the_text(laptop):
    for model in ("soft_intro", "as_intro-mean", "as_intro-product"):
        for c in ("c1", "c3"):
            assert (scores(laptop, f"8gaussians-{c}/{model}", "modes_found") == 8).all()
            KL = scores(laptop, f"8gaussians-{c}/{model}")
            assert 2.5 < KL.max() / KL.min() < 7.5
        assert set(scores(laptop, f"8gaussians-c2/{model}", "modes_found")) <= {2, 3, 4, 5}


def test_the_ablation_needs_the_kl_divergence_and_not_the_distance(laptop):
    ablation = load_records(embedded("runs/toy_ablation"))
    assert scores(ablation, "c0").min() > 200
    assert set(scores(ablation, "c0.5", "modes_found")) >= {2, 8}
    annealed = [
        scores(ablation, name, "modes_found")
        for name in ("no-distance", "squash", "pairing-real", "estimator-u")
    ]
    assert (np.stack(annealed) == 8).all()
    mixed = scores(laptop, "8gaussians-c1/as_intro-mean")
    for name in ("no-distance", "squash", "kernel-prior", "pairing-real", "estimator-u"):
        change = scores(ablation, name)
        assert abs(change.mean() - mixed.mean()) < np.hypot(
            change.std(ddof=1), mixed.std(ddof=1)
        ), name


def test_the_map_says_annealing_and_not_the_distance():
    runs = load_records(embedded("runs/toy_map")) | load_records(embedded("runs/toy_annealed"))
    rows = {tuple(name.split("/")): record["metrics"] for name, record in runs.items()}

    def whole(form, seeds):
        """Whether all modes were found, by weights and seed."""
        found = {
            key[1:]: row["modes_found"] == 8
            for key, row in rows.items()
            if key[0] == form and int(key[3]) < seeds
        }
        assert len(found) == 64 * seeds
        return found

    def alone(one, other, seeds):
        a, b = whole(one, seeds), whole(other, seeds)
        return sum(a[key] > b[key] for key in a), sum(b[key] > a[key] for key in a)

    assert alone("as_intro", "soft_intro", 3) == (10, 12)
    assert alone("as_intro-weighted", "soft_intro", 3) == (0, 47)
    assert alone("as_intro-annealed", "soft_intro-annealed", 2) == (7, 12)
    assert alone("soft_intro-annealed", "soft_intro", 2) == (31, 3)
    assert alone("as_intro-annealed", "as_intro", 2) == (23, 1)
    assert min(stats.binomtest(10, 22).pvalue, stats.binomtest(7, 19).pvalue) > 0.05
    assert max(stats.binomtest(23, 24).pvalue, stats.binomtest(31, 34).pvalue) < 0.001
    for form, below, above in (("soft_intro", 70, 9), ("as_intro", 70, 7)):
        found = whole(form, 3)
        small = {key for key in found if float(key[0].partition("=")[2]) < 0.4}
        assert (
            sum(found[key] for key in small),
            sum(found[key] for key in found.keys() - small),
        ) == (below, above)
    for form, middle in (("soft_intro-annealed", 16), ("as_intro-annealed", 15)):
        found = whole(form, 2)
        strong = {key for key in found if float(key[1].partition("=")[2]) >= 1}
        assert (
            sum(found[key] for key in strong if key[0] in ("beta_kl=0.5", "beta_kl=0.7")) == middle
        )


@pytest.fixture(scope="module")
def tuned():
    return [load_run(embedded("runs/toy_tuned") / str(seed)) for seed in range(3)]


def test_the_tuned_runs_are_near_the_level_of_the_large_ones_and_above_the_floor(tuned):
    soft = load_records(embedded("runs/toy_reference"))["8gaussians-c1/soft_intro/0"]["metrics"]
    for run in tuned:
        assert run.record["metrics"]["modes_found"] == 8
        for score, floor in (("protocol_kl", 0.66), ("protocol_jsd", 0.32)):
            assert 0.8 < run.record["metrics"][score] / soft[score] < 1.5
            assert 2 < run.record["metrics"][score] / floor < 6.5


def misfit(run, x):
    """|x - Dec(mu)|² + 2 sigma² KL by numpy; 2 sigma² is beta_kl / beta_rec, or what the decoder
    draws with."""
    with torch.no_grad():
        q = run.model.encode(x)
        x_r = run.model.decode(q.mean).numpy()
    mu, var = q.mean.double().numpy(), np.exp(q.logvar.double().numpy())
    config = run.config
    weight = 2 * config.decoder_std**2 if config.decoder_std else config.beta_kl / config.beta_rec
    return ((x.numpy() - x_r) ** 2).sum(1) + weight * 0.5 * (mu**2 + var - np.log(var) - 1).sum(1)


def test_the_model_judges_as_the_text_says(tuned):
    """It rejects the points between the modes and few others; "JSD" falls by a third to two thirds,
    KL stays."""
    angles = np.arange(8) * np.pi / 4
    centers = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for seed, run in enumerate(tuned):
        x, x_g = build_data(run.config).evaluation(5000), sample(run.model, 10_000, seed)
        rejected = misfit(run, x_g) > np.quantile(misfit(run, x), SHARE)
        astray = np.linalg.norm(x_g.numpy()[:, None] - centers, axis=2).min(1) > 5 * 0.02 / np.sqrt(
            2
        )
        assert 0.015 < rejected.mean() < 0.03
        assert 0.015 < astray.mean() < 0.025
        assert astray[rejected].sum() > 0.85 * astray.sum()
        before, after = (
            histogram_divergences(x, points[:5000], (-2, 2)) for points in (x_g, x_g[~rejected])
        )
        assert before.protocol_kl == pytest.approx(run.record["metrics"]["protocol_kl"], rel=0.01)
        assert 0.35 < after.protocol_jsd / before.protocol_jsd < 0.66
        assert abs(after.protocol_kl - before.protocol_kl) < 0.2


def means_over_draws(run, extent, judge=None):
    """(KL, "JSD") of all generated points and of those the judge accepts, (2, 2), by other draws
    than the chapter's."""
    density, rows, judge = build_data(run.config).density, [], judge or run
    limit = np.quantile(misfit(judge, build_data(judge.config).evaluation(5000)), SHARE)
    for k in range(8):
        x, x_g = (
            density.sample(5000, torch.Generator().manual_seed(k)),
            sample(run.model, 10_000, 50 + k),
        )
        kept = x_g[misfit(judge, x_g) <= limit][:5000]
        assert len(kept) == 5000
        rows.append([histogram_divergences(x, points, extent)[:2] for points in (x_g[:5000], kept)])
    return np.mean(rows, axis=0)


@pytest.fixture(scope="module")
def near_floor():
    """Model -> scores of the runs whose decoder draws, (seeds, 2, 2)."""
    runs = {
        model: [load_run(embedded("runs/toy_drawing") / model / str(seed)) for seed in range(5)]
        for model in ("soft_intro", "as_intro")
    }
    assert {run.record["metrics"]["modes_found"] for group in runs.values() for run in group} == {8}
    return {
        model: np.array([means_over_draws(run, (-2, 2)) for run in group])
        for model, group in runs.items()
    }


def test_accepted_draws_of_a_decoder_that_draws_are_near_the_floor_on_every_seed(near_floor):
    """Protocol KL at most 1.0 and "JSD" at most 0.6, where two samples of the data have 0.66 and
    0.32."""
    for scores_of in near_floor.values():
        kl, jsd = scores_of[:, 1].T
        assert 0.5 < kl.min() < kl.max() < 1.0
        assert 0.3 < jsd.min() < jsd.max() < 0.6
    kl, jsd = near_floor["as_intro"][:, 0].T
    assert kl.max() < 1.0
    assert jsd.min() > 0.9
    everything = load_records(embedded("runs/toy_drawing"))
    assert all(0.3 < record["metrics"]["protocol_kl"] < 1.1 for record in everything.values())


def test_with_a_decoder_that_draws_the_two_models_are_not_told_apart(near_floor):
    soft, adversarial = (np.log(near_floor[model]) for model in ("soft_intro", "as_intro"))
    for of_points in (0, 1):
        for score in (0, 1):
            assert judged((soft - adversarial)[:, of_points, score]) == "undecided"
    assert printed("12_toy_results", "accepted  KL").count("undecided") == 4


@pytest.fixture(scope="module")
def board_runs():
    """Form -> runs of the checkerboard with sinusoids, by seed."""
    return {
        form: [load_run(embedded("runs/toy_board") / form / str(seed)) for seed in range(3)]
        for form in ("vae", "soft_intro", "as_intro")
    }


@pytest.fixture(scope="module")
def board(board_runs):
    """Form -> protocol KL of all points and of accepted ones, (seeds, 2)."""
    return {
        form: np.array([means_over_draws(run, (-4, 4))[:, 0] for run in group])
        for form, group in board_runs.items()
    }


def test_with_sinusoids_and_a_judge_the_board_is_within_1_1_of_its_floor_on_every_seed(
    board, laptop
):
    """The floor is 17.1, two samples of the data; without a judge the runs stay above 1.1 of it."""
    for kl in board.values():
        everything, accepted = kl.T
        assert 17.1 < accepted.min() < accepted.max() < 1.1 * 17.1 < everything.mean() < 19.6
    plain = scores(load_records(embedded("runs/toy_board")), "vae-plain")
    assert plain.min() > board["vae"][:, 0].max() + 0.5
    assert scores(laptop, "checkerboard-c1/vae").min() > plain.max() + 1


def test_on_the_board_the_game_gives_a_judge_and_not_a_decoder(board, board_runs):
    pairs = zip(board_runs["vae"], board_runs["soft_intro"], strict=True)
    cross = np.array([means_over_draws(run, (-4, 4), judge)[1, 0] for run, judge in pairs])
    assert (cross < board["vae"][:, 1] - 0.1).all()
    assert judged(np.log(cross) - np.log(board["soft_intro"][:, 1])) == "undecided"
    text = printed("12_toy_results", "better judge of a VAE")
    assert [line.rpartition(" ")[2] for line in text.splitlines() if " of 3, " in line] == [
        "undecided"
    ] * 3 + ["held"]


def test_with_sinusoids_the_two_models_are_not_told_apart(board):
    soft, adversarial = (np.log(board[form]) for form in ("soft_intro", "as_intro"))
    assert [judged((soft - adversarial)[:, k]) for k in (0, 1)] == ["undecided"] * 2


def test_recorded_pictures_are_those_of_the_scores(laptop):
    """The 2,000 kept points of 8 Gaussians reach about the modes counted among all 5,000."""
    for setting in SETTINGS[:3]:
        for model in MODELS:
            record = laptop[f"{setting}/{model}/0"]
            points = load_samples(embedded("runs/toy_laptop") / setting / model / "0").numpy()
            angles = np.arange(8) * np.pi / 4
            centers = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            near = np.linalg.norm(points[:, None] - centers, axis=2) < 0.2
            found = (near.sum(0) >= 0.25 * len(points) / 8).sum()
            assert abs(int(found) - record["metrics"]["modes_found"]) <= 1, (setting, model)


def test_the_form_published_in_code_is_worse_and_the_papers_form_is_not_told_apart():
    """The words under the forest plot, from ninety runs of one version."""
    records = load_records(embedded("runs/toy_official"))
    assert len({record["code"] for record in records.values()}) == 1

    def ten(c, model, name):
        runs = (records[f"8gaussians-c{c}/{model}/{seed}"] for seed in range(10))
        return [float(run["metrics"][name]) for run in runs]

    modes = {"soft_intro": [], "as_intro-official": []}
    for c, equal in ((1, False), (2, True), (3, True)):
        plain = ten(c, "soft_intro", "protocol_kl")
        code = ratio(ten(c, "as_intro-official", "protocol_kl"), plain)
        assert 2 < code.estimate < 6.5
        assert code.low > 1
        paper = ten(c, "as_intro", "protocol_kl")
        assert not ratio(paper, plain).excludes(1)
        assert (equivalence(paper, plain, 1.5) < 0.05) == equal
        for model, found in modes.items():
            found.append(sum(m == 8 for m in ten(c, model, "modes_found")))
    assert modes == {"soft_intro": [10, 0, 10], "as_intro-official": [4, 0, 4]}
