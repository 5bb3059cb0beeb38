"""Claims of the chapter on image results, from the recorded runs and their checkpoints, and that
these are the runs its sweeps describe."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy import linalg, stats
from torch.optim.swa_utils import update_bn

from asintrovae import (
    annealing_weight,
    build_data,
    build_model,
    build_objective,
    evaluate,
    load_run,
    psnr,
    reconstruct,
    sample,
)
from asintrovae.data.image_files import read_row
from asintrovae.evaluation.features import build_features
from asintrovae.evaluation.measures import precision_recall
from asintrovae.evaluation.statistics import ratio
from asintrovae.files import embedded
from asintrovae.randomness import generator_for
from asintrovae.running.loop import Loop
from asintrovae.running.records import load_records, read_history
from asintrovae.sweeps.grid import read_grid
from asintrovae.sweeps.status import DONE, status_of
from asintrovae.theory.batchnorm import evaluating

pytestmark = pytest.mark.xdist_group("chapter_13")  # one worker makes its fixtures once

RUNS = embedded("runs/mnist_laptop")
MODELS = ("wgan_gp", "vae", "intro", "soft_intro", "as_intro")
DATASETS = ("mnist", "cifar10", "flowers64")
RECALL = "recall_mnist_classifier"


def text():
    return " ".join((ROOT / "book" / "src" / "13_image_results.md").read_text().split())


def recorded(setting):
    """seed -> run."""
    return {run.config.seed: run for run in map(load_run, sorted(RUNS.glob(f"{setting}-[0-9]")))}


def scores(setting, name):
    """A metric by seed, in the order of the seeds."""
    return np.array([run.record["metrics"][name] for _, run in sorted(recorded(setting).items())])


def differences(name, one="as_intro", other="soft_intro"):
    """Of one model and another, for each seed that both have."""
    a, b = recorded(one), recorded(other)
    return np.array(
        [
            a[s].record["metrics"][name] - b[s].record["metrics"][name]
            for s in sorted(a.keys() & b.keys())
        ]
    )


def curve(run, term):
    return np.array([row[term] for row in run.history])


def loudness(run):
    """Push of the fakes against the pull of the real images per nat of KL, at each row."""
    config = run.config
    return (
        config.beta_neg
        * (curve(run, "encoder.exp_elbo_r") + curve(run, "encoder.exp_elbo_g"))
        / (2 * config.beta_kl)
    )


@pytest.fixture(scope="module")
def digits():
    """Data, and features of test digits by the classifier: functions of images."""
    config = recorded("as_intro")[0].config.model_copy(update={"device": "cpu"})
    return build_data(config), build_features(config)


def frechet(a, b):
    """By scipy's matrix square root, nothing of the package."""
    a, b = a.double().numpy(), b.double().numpy()
    C_a, C_b = np.cov(a.T), np.cov(b.T)
    jitter = 1e-8 * np.eye(len(C_a))  # some features are 0 for all digits
    root = linalg.sqrtm((C_a + jitter) @ (C_b + jitter)).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(C_a + C_b - 2 * root)


def test_recorded_runs_are_those_the_chapter_describes():
    for path in sorted(RUNS.iterdir()):
        run = load_run(path)
        config, setting = run.config, path.name.rsplit("-", 1)[0]
        assert run.record["status"] == "finished"
        assert run.record["device"].startswith("cpu")
        assert (config.dataset, config.widths, config.latent_dim, config.batch_size) == (
            "mnist-subset",
            (16, 32),
            32,
            32,
        )
        assert (config.iterations, config.checkpoint_every, config.warmup, config.ema) == (
            6 * 187,
            187,
            0,
            0.0,
        )
        assert config.beta_rec == (0.05 if config.model == "intro" else 1.0)
        assert config.beta_kl == (0.1 if setting.endswith("-kl0.1") else 1.0)
        assert config.learning_rate == (2e-3 if setting.endswith("-lr2e-3") else 1e-3)
        assert (config.beta_neg, config.c, config.evaluation_samples) == (256.0, None, 1000)
        assert setting.startswith(config.model)
        assert path.name == f"{setting}-{config.seed}"
    assert all(0 in recorded(model) for model in MODELS)
    codes = {path.name: load_run(path).record["code"] for path in RUNS.iterdir()}
    earlier = codes.pop("as_intro-lr2e-3-0")
    assert len(set(codes.values())) == 1
    assert earlier not in codes.values()


@pytest.mark.parametrize("model", MODELS)
def test_checkpoints_give_the_recorded_scores(digits, model):
    data, features = digits
    run = recorded(model)[0]
    again, kept = evaluate(run.model, data, run.config, features), run.record["metrics"]
    newer = {f"{measure}_mnist_classifier" for measure in ("kid", "density", "coverage")}
    assert again.keys() - kept.keys() == newer
    assert kept.keys() <= again.keys()
    for name, value in kept.items():
        tolerance = {"abs": 0.02} if re.match("precision|recall|kl|psnr", name) else {"rel": 0.02}
        assert again[name] == pytest.approx(value, **tolerance), name


@pytest.mark.parametrize("model", MODELS)
def test_the_last_picture_is_what_the_checkpoint_draws(model):
    kept = read_row(RUNS / f"{model}-0" / "progress" / "0001122.png")
    assert (kept - sample(recorded(model)[0].model, 16, seed=0).clamp(0, 1)).abs().max() < 0.02


def test_the_scale_of_the_classifier_distance(digits):
    """Real digits 5, a Gaussian in pixel space 440, noise 900, black sheets 1,470; precision calls
    the last two perfect."""
    data, features = digits
    train, real = data.train.float() / 255, features(data.evaluation(1000))
    floor = [frechet(features(part), real) for part in train.split(1000)]
    assert 4 < min(floor) < max(floor) < 6.5
    pixels = train.flatten(1).double().numpy()
    drawn = np.random.default_rng(0).multivariate_normal(pixels.mean(0), np.cov(pixels.T), 1000)
    gaussian = features(torch.tensor(drawn).float().reshape(-1, 1, 28, 28))
    assert abs(frechet(gaussian, real) - 440) < 20
    for x, distance in ((torch.rand(1000, 1, 28, 28), 900), (torch.zeros(1000, 1, 28, 28), 1470)):
        fake = features(x)
        assert abs(frechet(fake, real) / distance - 1) < 0.02
        assert precision_recall(real, fake).precision > 0.99
        assert precision_recall(real, fake).recall < 0.01
        gaps = torch.cdist(real.double(), real.double()).kthvalue(4, dim=1).values
        few = gaps.argsort()[:-50]
        assert (torch.cdist(fake.double(), real[few].double()) <= gaps[few]).any(
            1
        ).double().mean() < 0.02
    assert precision_recall(real, features(train[:1000])).precision < 0.9


def test_c_starts_at_zero_and_the_kl_part_is_already_there():
    """In every recorded row of every AS-IntroVAE run; its push is loud at first, that of S-IntroVAE
    never."""
    for run in recorded("as_intro").values():
        i = curve(run, "iteration")
        c = np.minimum(5 * (i - 1) / 1122, 1)
        assert annealing_weight(0, 1122) == 0
        part_kl, part_d = c * curve(run, "encoder.kl_g"), (1 - c) * curve(run, "encoder.distance")
        assert (part_kl > part_d).all()
        assert loudness(run)[0] > 1
    for run in recorded("soft_intro").values():
        assert loudness(run).max() < 1


def test_the_loud_start_is_that_of_the_annealing_not_of_the_distance(digits):
    """Ten iterations of seed 0 with D and without: the KL divergences peak as high, beyond those of
    S-IntroVAE."""
    peak = {}
    for model, weight in (("as_intro", 1.0), ("as_intro", 0.0), ("soft_intro", 1.0)):
        config = recorded(model)[0].config.model_copy(
            update={"device": "cpu", "distance_weight": weight}
        )
        loop = Loop(
            build_model(config, digits[0].shape).train(), build_objective(config), digits[0], config
        )
        rows = [loop.iterate(i) for i in range(10)]
        peak[model, weight] = np.array(
            [max(float(row[f"encoder.{term}"]) for row in rows) for term in ("kl", "kl_r")]
        )
    assert (peak["as_intro", 0.0] > 0.95 * peak["as_intro", 1.0]).all()
    assert (peak["as_intro", 1.0] > 1.5 * peak["soft_intro", 1.0]).all()


def test_balance_of_push_and_pull():
    """8.5 nats at beta_neg 256."""
    assert 784 / 512 * np.log(256) == pytest.approx(8.5, abs=0.02)


@pytest.fixture(scope="module")
def modes(digits):
    """(model, kinds of latent behind the decoder's statistics) -> PSNR, Fréchet distance."""
    data, features = digits
    test, found = data.evaluation(1000), {}
    real = features(test)
    for name in ("vae", "as_intro"):
        for kinds in (("posterior",), ("prior",), ("posterior", "prior")):
            model, batches = recorded(name)[0].model, []
            for i in range(10):
                x, generator = data.batch(i), generator_for(0, "statistics", i)
                prior, noise = torch.randn(2, len(x), 32, generator=generator)
                with evaluating(model):
                    drawn = {"posterior": model.encode(x).sample(noise), "prior": prior}
                batches.append(torch.cat([drawn[kind] for kind in kinds]))
            with torch.no_grad():
                update_bn(batches, model.decoder)
            fake = features(sample(model, 1000, seed=0))
            found[name, kinds] = (
                psnr(test, reconstruct(model, test)[0].clamp(0, 1)).item(),
                frechet(fake, real),
            )
    return found


def test_samples_score_best_with_statistics_of_their_own(modes):
    """And reconstructions do not care; the choice moves AS-IntroVAE further than S-IntroVAE of seed
    0 is away."""
    for name in ("vae", "as_intro"):
        decibels, distances = zip(
            *(modes[name, k] for k in (("prior",), ("posterior", "prior"), ("posterior",))),
            strict=True,
        )
        assert max(decibels) - min(decibels) < 0.4
        assert distances[0] < 0.97 * distances[1] < 0.97**2 * distances[2]
        assert decibels[1] == pytest.approx(recorded(name)[0].record["metrics"]["psnr"], abs=0.01)
    moved = modes["as_intro", ("posterior",)][1] - modes["as_intro", ("prior",)][1]
    assert moved > abs(differences("frechet_mnist_classifier")[0])


def test_as_intro_is_ahead_of_the_vae_but_for_ssim_and_no_goal_is_met():
    distance = "frechet_mnist_classifier"
    for name, sign in ((distance, -1), ("psnr", 1), ("mse", -1)):
        assert (sign * differences(name, other="vae") > 0).all()
    assert (differences(distance, "soft_intro", "vae") > 0).all()
    assert (differences("ssim", "soft_intro", "vae") < 0).all()
    assert scores("vae", "ssim").mean() > max(
        scores(m, "ssim").mean() for m in ("as_intro", "soft_intro")
    )
    recall = "recall_mnist_classifier"
    for name, best in ((distance, min), (recall, max)):
        means = {m: scores(m, name).mean() for m in MODELS[1:]}
        assert best(means, key=means.get) == "as_intro"
    for model in MODELS[1:]:
        assert scores(model, "psnr").max() < 18.5 < 21
        assert scores(model, "ssim").max() < 0.7 < 0.898
        assert scores(model, "mse").min() > 0.016 > 0.009
    for model in ("soft_intro", "as_intro"):
        assert (differences("psnr", model, "vae") < 1).all()
        assert (scores(model, "psnr") > 17.4).all()


def test_beta_kl_moves_the_error_further_than_the_model_does():
    means = [scores(model, "psnr").mean() for model in ("vae", "soft_intro", "as_intro")]
    assert f"{max(means) - min(means):.1f}" == "0.6"
    moved = {
        name: scores("vae-kl0.1", name).mean() / scores("vae", name).mean()
        for name in ("mse", "kl")
    }
    assert f"{scores('vae-kl0.1', 'psnr').mean() - means[0]:.1f}" == "2.9"
    assert moved["mse"] < 0.6
    assert 4 < moved["kl"] < 5
    for name, sign in (("psnr", 1), ("ssim", 1), ("mse", -1)):
        best = max((sign * scores(model, name)).max() for model in ("soft_intro", "as_intro"))
        assert (sign * scores("vae-kl0.1", name) > best).all()
    assert (differences("frechet_mnist_classifier", "vae-kl0.1", "vae") > 50).all()


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
def test_the_runs_of_the_chapter_are_those_of_its_sweeps(dataset):
    """Same parameters (status_of refuses others), all there, and none that no sweep asked for."""
    run_dir, points = read_grid(ROOT / "book" / "training" / "sweeps" / f"images_{dataset}.yaml")
    assert run_dir.resolve() == embedded(f"runs/images_{dataset}")
    assert {status_of(point) in DONE for point in points} == {True}
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


def test_what_the_text_says_of_colour(records):
    photographs, flowers = (
        {name: run["metrics"] for name, run in records[set_].items()}
        for set_ in ("cifar10", "flowers64")
    )
    assert 275.20 - photographs["soft_intro/0"]["fid"] > 50
    assert 271.69 - photographs["as_intro/0"]["fid"] > 50
    assert {run["recall_inception"] for run in photographs.values()} == {0}
    assert max(photographs, key=lambda name: photographs[name]["precision_inception"]) == "intro/0"
    assert max(photographs, key=lambda name: photographs[name]["fid"]) == "intro/0"
    assert max(flowers, key=lambda name: flowers[name]["fid"]) == "soft_intro/0"
    assert {run["precision_inception"] for run in flowers.values()} == {0}
    for runs in (photographs, flowers):
        assert runs["as_intro-annealed/0"]["fid"] > runs["as_intro/0"]["fid"]
        assert max(runs, key=lambda name: runs[name].get("psnr", 0)) == "vae/0"


def test_reconstructions_of_the_text(mnist, records):
    for model in ("soft_intro", "as_intro"):
        assert (np.abs(mnist(model, "psnr") - mnist("vae", "psnr") - 0.85) < 0.25).all()
        assert (mnist(model, "ssim") < mnist("vae", "ssim")).all()
    best = max(run["metrics"].get("psnr", 0) for run in records["mnist"].values())
    assert best < 20.282
    assert max(run["metrics"].get("psnr", 0) for run in records["cifar10"].values()) < 19.3


def test_what_the_text_says_of_an_unstable_game():
    """c = 0.5: KL of real digits swings twice as far as in either annealed form, that of generated
    ones at least twice."""

    def swing(model, seed, term):
        rows = read_history(embedded("runs/images_mnist") / model / str(seed) / "history.csv")
        return np.std([row[term] for row in rows if row["iteration"] > 200], ddof=1)

    for term, factor in (("encoder.kl", 1.6), ("encoder.kl_g", 2.4)):
        swings = {
            model: [swing(model, seed, term) for seed in range(3)]
            for model in ("soft_intro", "as_intro", "as_intro-c0.5")
        }
        assert min(swings["as_intro-c0.5"]) > factor * max(
            swings["soft_intro"] + swings["as_intro"]
        )


def test_the_published_numbers_are_those_of_the_chapter_on_measures():
    """Typed in two chapters; they must not come apart."""
    measures = (ROOT / "book" / "src" / "08_measures.md").read_text()
    assert "| MNIST | 139.02 | 98.84 | 96.16 |" in measures
    assert "98.84 for S-IntroVAE and 96.16 for AS-IntroVAE" in text()
    assert "| CIFAR-10 | 434.11 | 275.20 | 271.69 |" in measures
    rows = re.findall(r'"\w+": \("[^"]*", ([\d.]+|None), ([\d.]+|None)\)', text())
    assert rows == [
        ("434.11", "None"),
        ("None", "None"),
        ("275.20", "19.300"),
        ("271.69", "19.445"),
    ]
    (colour,) = re.findall(r'^    "CIFAR-10": (\(\(.*\)\)),$', measures, flags=re.MULTILINE)
    assert [re.findall(r"[\d.]+", colour)[k] for k in (0, 3)] == ["19.300", "19.445"]


def test_the_comparisons_of_the_chapter(mnist):
    """Welch's interval on logarithms, by scipy, of AS-IntroVAE against S-IntroVAE."""
    name = "frechet_mnist_classifier"
    laptop = {model: scores(model, name) for model in ("wgan_gp", "soft_intro", "as_intro")}
    pairs = {
        "0.86": (mnist("as_intro", "fid"), mnist("soft_intro", "fid")),
        "0.80": (laptop["as_intro"], laptop["soft_intro"]),
    }
    for said, (a, b) in pairs.items():
        test = stats.ttest_ind(np.log(a), np.log(b), equal_var=False)
        low, high = np.exp(test.confidence_interval())
        found = ratio(list(a), list(b))
        assert (found.low, found.high) == pytest.approx((low, high))
        assert f"{found.estimate:.2f}" == said
        assert f"{said} ({low:.2f} to {high:.2f})" in text()
    assert ratio(list(laptop["wgan_gp"]), list(laptop["as_intro"])).high < 0.4
    long = load_records(embedded("runs/mnist_ten_epochs"))
    found = [long[f"{model}/0"]["metrics"] for model in ("as_intro", "soft_intro", "vae")]
    said = "by the classifier, {:.0f} against {:.0f}, and".format(*(m[name] for m in found))
    assert said in text()
    assert len({record["code"] for record in long.values()}) == 1
    for better, column in ((min, name), (max, "psnr"), (max, "ssim"), (max, RECALL)):
        assert better(m[column] for m in found) == found[2][column]
        assert better(m[column] for m in found[:2]) == found[0][column]


def test_the_levels_of_the_text(mnist, records):
    levels = [mnist(model, "fid").mean() for model in ("soft_intro", "as_intro")]
    assert "score {:.0f} and {:.0f} after half an epoch".format(*levels) in text()
    colour = [records["cifar10"][f"{model}/0"]["metrics"]["fid"] for model in MODELS[3:]]
    assert "they score {:.0f} and {:.0f} where".format(*colour) in text()
    for model in MODELS[1:]:
        assert mnist("wgan_gp", "fid").max() < mnist(model, "fid").min()
    assert (mnist("as_intro-annealed", "fid") > mnist("as_intro", "fid")).all()
    assert f"from 100 to {mnist('as_intro-c0', 'fid').mean():.0f}," in text()
    lost = mnist("as_intro", "psnr") - mnist("as_intro-c0", "psnr")
    assert (lost > 4).all()
    assert (lost < 5.5).all()
    study = json.loads((embedded("fid") / "record.json").read_text())
    floors = [np.mean(study[f"floor of {dataset}"]["1000"]) for dataset in DATASETS[1:]]
    assert "are {:.0f} on CIFAR-10 and {:.0f} on flowers.".format(*floors) in text()
    fooled = records["cifar10"]["intro/0"]["metrics"]["precision_inception"]
    real = study["precision and recall of 1,000 training images"]["cifar10"]["precision"]
    assert f"a precision of {fooled:.2f}, where real images have {real:.2f}." in text()


def test_at_twice_the_rate_as_intro_falls_behind_and_soft_intro_does_not():
    ours, soft = (
        recorded(f"{model}-lr2e-3")[0].record["metrics"] for model in ("as_intro", "soft_intro")
    )
    name = "frechet_mnist_classifier"
    assert f"ends at {ours['psnr']:.1f} dB and a distance of {ours[name]:.0f}," in text()
    assert f"{soft['psnr']:.1f} dB and {soft[name]:.0f}." in text()


def test_at_the_end_the_push_is_a_few_hundredths_of_the_pull():
    for model in ("soft_intro", "as_intro"):
        for run in recorded(model).values():
            assert 0.03 < loudness(run)[-11:].mean() < 0.08
            assert 13 < curve(run, "encoder.kl_g")[-11:].mean() < 15


def test_two_networks_order_the_models_of_ten_epochs_differently():
    """The numbers of the text: FID and classifier distance, precision and sharpness."""
    scored = json.loads((embedded("fid") / "ten_epochs.json").read_text())["models"]
    runs = load_records(embedded("runs/mnist_ten_epochs"))
    assert set(runs) <= set(scored)
    fid = {name: round(scored[f"{name}/0"]["fid"]) for name in ("soft_intro", "as_intro", "vae")}
    assert fid == {"soft_intro": 37, "as_intro": 43, "vae": 45}
    assert round(scored["vae-kl0.1/0"]["fid"]) == 41
    assert round(scored["intro/0"]["fid"]) == 33  # three epochs
    recall = [round(scored[f"{name}/0"]["recall"], 2) for name in ("intro", "soft_intro", "vae")]
    assert recall == [0.50, 0.40, 0.21]
    classifier = {
        name: round(run["metrics"]["frechet_mnist_classifier"]) for name, run in runs.items()
    }
    assert classifier == {"vae/0": 101, "vae-kl0.1/0": 147, "as_intro/0": 187, "soft_intro/0": 251}
    less = runs["vae-kl0.1/0"]["metrics"]
    assert less["psnr"] > 21.0
    assert less["ssim"] > 0.898
    assert less["mse"] < 0.009
    assert less["precision_mnist_classifier"] < 0.61
