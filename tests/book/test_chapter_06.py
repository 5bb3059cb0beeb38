"""Claims of the chapter on AS-IntroVAE."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_config

from asintrovae import (
    ASIntroVAE,
    ParameterError,
    RunConfig,
    annealing_weight,
    build_data,
    build_model,
    build_objective,
    load_run,
    sample,
)
from asintrovae.evaluation.statistics import paired_ratio
from asintrovae.figures.widgets import load_film
from asintrovae.files import embedded
from asintrovae.randomness import generator_for
from asintrovae.running.loop import Loop
from asintrovae.running.train import train
from asintrovae.theory.networks import mlp_autoencoder
from asintrovae.theory.objectives import Noise

WANTED = {"encoder": (1, 1, 1), "decoder": (1, -1, -1)}  # ELBO(x), KL(x_s), D


@pytest.fixture
def setting():
    torch.manual_seed(1)
    model = mlp_autoencoder(2, 2, (8,)).double()
    x = torch.randn(16, 2, generator=generator_for(0, "data")).double()
    noise = Noise(*(t.double() for t in Noise.draw(16, 2, generator_for(0, "noise"))))
    return model, x, noise


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_eq_7_as_printed_has_no_right_reading(signs, step):
    """Maximised or minimised, by finite differences: only a minus before KL and before D,
    maximised, moves all as wanted."""

    def equation_7(player, elbo, kl, d, alpha=2.0, gamma=1.0, c=0.5):
        bracket = -2.0 + signs[0] * c * kl + signs[1] * (1 - c) * d
        return (
            elbo - math.exp(alpha * bracket) / alpha
            if player == "encoder"
            else elbo + gamma * bracket
        )

    base, h, right = [-1.0, 1.0, 0.1], 1e-4, []
    for who, wanted in WANTED.items():
        for k, direction in enumerate(wanted):
            moved = [b + h * (j == k) for j, b in enumerate(base)]
            right.append((equation_7(who, *moved) - equation_7(who, *base)) * step * direction > 0)
    assert all(right) == (signs == (-1, -1) and step == 1)


@pytest.mark.parametrize("iterations", [640, 8000, 30_000])
def test_annealing_never_begins_where_it_has_ended(iterations):
    fifth = iterations // 5
    for warmup in (None, 0, fifth - 1):
        config = RunConfig(model="as_intro", iterations=iterations, warmup=warmup)
        assert annealing_weight(config.warmup_iterations(), iterations) < 1
    assert (
        annealing_weight(RunConfig(iterations=iterations).warmup_iterations(), iterations) == 5 / 16
    )
    for warmup in (fifth, iterations):
        with pytest.raises(ParameterError, match="leaves nothing of the annealing"):
            RunConfig(model="as_intro", iterations=iterations, warmup=warmup)


def test_the_loop_counts_the_warm_up(tmp_path):
    """The first iteration of the game sees c = 5 i / T with i counted from the start of the run."""
    config = tiny_config(tmp_path, model="as_intro", iterations=40, warmup=4)
    data = build_data(config)
    loop = Loop(build_model(config, data.shape), build_objective(config), data, config)
    seen = []
    loop.step = lambda phase, x, noise, progress: (
        seen.append((phase.name, annealing_weight(progress, 1.0))) or {}
    )
    for i in range(10):
        loop.iterate(i)
    assert [name for name, _ in seen[:4]] == ["joint"] * 4
    assert seen[4] == ("encoder", 0.5)
    assert seen[-1] == ("decoder", 1.0)


def test_pairings_are_different_games(setting):
    model, x, noise = setting
    x_r = model.decode(model.encode(x).sample(noise.eps)).detach().requires_grad_()
    x_g = model.decode(noise.z).detach().requires_grad_()
    felt, constant = {}, {}
    for pairing in ("reconstructed", "real"):
        objective = ASIntroVAE(pairing=pairing)
        D = objective.distance(model.encode(x), model.encode(x_r), model.encode(x_g))
        felt[pairing] = [
            g is not None and bool(g.any())
            for g in torch.autograd.grad(D, (x_r, x_g), allow_unused=True)
        ]
        same = model.encode(torch.zeros_like(x))
        constant[pairing] = objective.distance(model.encode(x), same, same).item()
    assert felt == {"reconstructed": [True, True], "real": [False, True]}
    assert abs(constant["reconstructed"]) < 1e-12
    assert constant["real"] > 1e-6


@pytest.mark.parametrize("kernel", ["mean", "product", "prior"])
@pytest.mark.parametrize("pairing", ["reconstructed", "real"])
def test_d_is_silent_where_all_posteriors_have_collapsed(setting, kernel, pairing):
    """An encoder that answers N(0, I) to everything gets the same gradient whatever D weighs; a
    warm one does not."""
    model, x, noise = setting

    def gradient(weight):
        objective = ASIntroVAE(
            0.2, 0.5, 0.9, kernel=kernel, pairing=pairing, distance_weight=weight, c=0.5
        )
        loss, _ = objective.encoder_loss(model, x, noise, 0.0)
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(model.encoder.parameters()))]
        )

    assert not torch.allclose(gradient(0.0), gradient(100.0), atol=1e-6)
    head = model.encoder[1].linear
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    torch.testing.assert_close(gradient(0.0), gradient(100.0), rtol=0, atol=1e-12)


def test_without_the_kl_of_fakes_the_game_does_not_start(tmp_path):
    """One seed of the chapter's ablation, trained by the package: c = 0 leaves the samples between
    the modes."""
    between = {}
    for c in (0.0, None):
        parameters = {
            "beta_kl": 0.1,
            "beta_neg": 1.0,
            "learning_rate": 4e-3,
            "batch_size": 64,
            "widths": (64, 64),
            "seed": 1,
        }
        config = tiny_config(
            tmp_path / str(c),
            model="as_intro",
            iterations=400,
            c=c,
            checkpoint_every=400,
            **parameters,
        )
        data = build_data(config)
        model = build_model(config, data.shape)
        train(model, build_objective(config), data, config)
        between[c] = (
            (torch.cdist(sample(model, 2000, 0), data.density.centers).amin(1) > 0.2)
            .double()
            .mean()
        )
    assert between[0.0] > between[None] + 0.1


def film(model):
    """What was recorded of a run: by name, one value per logged iteration."""
    return {
        name: values.tolist()
        for name, values in load_film(embedded(f"runs/training_frames/{model}-0")).items()
    }


def test_the_film_shows_what_the_text_says():
    vae, intro, soft, annealed = (
        film(model) for model in ("vae", "intro", "soft_intro", "as_intro")
    )
    warm = vae["frames"].index(500) + 1
    assert all(
        other["samples"][:warm] == vae["samples"][:warm] for other in (intro, soft, annealed)
    )
    assert intro["samples"][warm] != soft["samples"][warm] != annealed["samples"][warm]
    assert set(vae["modes"]) == {0}
    assert max(intro["modes"][:25]) == 1
    assert intro["modes"][-1] == 7
    assert abs(intro["kl"][-1] - 10) < 0.1
    for run, begin, share in ((soft, 1200, 0.02), (annealed, 1600, 0.03)):
        first = run["iteration"].index(begin)
        assert set(run["modes"][first:]) == {8}
        assert run["modes"][first - 1] < 8
        assert round(run["between"][-1], 2) == share


def test_the_kl_part_is_the_larger_one_throughout_the_recorded_game():
    run = film("as_intro")
    rows = zip(run["iteration"], run["kl_g"], run["distance"], strict=True)
    parts = [(annealing_weight(i, 8000), kl, d) for i, kl, d in rows if 500 <= i < 1600]
    assert min(c * kl / ((1 - c) * d) for c, kl, d in parts) > 50


def test_two_records_of_one_setting_and_seed_score_differently():
    here, there = (
        load_run(embedded(f"runs/{name}/soft_intro-0"))
        for name in ("training_frames", "as_distance")
    )
    free = {name: getattr(there.config, name) for name in ("run_dir", "checkpoint_every", "device")}
    assert here.config.model_copy(update=free) == there.config
    assert here.record["code"] != there.record["code"]
    assert [round(run.record["metrics"]["protocol_kl"], 1) for run in (here, there)] == [10.0, 42.5]


def test_recorded_runs_with_the_distance_score_lower_than_the_control():
    """For each of three seeds and both kernels without the prior; the control is about as good as
    S-IntroVAE."""

    def kl(name):
        return torch.tensor(
            [
                load_run(embedded(f"runs/as_distance/{name}-{s}")).record["metrics"]["protocol_kl"]
                for s in range(3)
            ]
        )

    control = load_run(embedded("runs/as_distance/no_distance-0")).config
    with_distance = load_run(embedded("runs/as_distance/mean-0")).config
    assert (
        control.model_copy(update={"distance_weight": 1.0, "run_dir": with_distance.run_dir})
        == with_distance
    )
    assert (kl("mean") < kl("no_distance")).all()
    assert (kl("product") < kl("no_distance")).all()
    assert (kl("prior") < kl("no_distance")).sum() == 2
    assert (kl("no_distance") < kl("soft_intro")).sum() == 2
    assert abs(kl("no_distance").mean() - kl("soft_intro").mean()) < kl("no_distance").std()


def test_what_a_warm_up_hides():
    """The ratios and intervals in the words of the chapter are those of the recorded runs."""
    text = " ".join((ROOT / "book" / "src" / "06_as_introvae.md").read_text().split())
    runs = ROOT / "data" / "runs"

    def of(form, c, study=None):
        at = "toy_warmup" if c == "c1" else f"toy_warmup_c2_c3/8gaussians-{c}"
        at = at if study is None else f"{study}/8gaussians-{c}"
        paths = (runs / at / form / str(seed) / "record.json" for seed in range(10))
        return [json.loads(path.read_text())["metrics"] for path in paths]

    def kl(form, *settings, study=None):
        return [metrics["protocol_kl"] for c in settings for metrics in of(form, c, study)]

    def whole(form, *settings):
        return sum(metrics["modes_found"] == 8 for c in settings for metrics in of(form, c))

    everywhere = ("c1", "c2", "c3")
    warm = "toy_official"
    for words, (one, other) in {
        "by a factor of {:.1f} ({:.1f} to {:.0f}) at C1": [
            kl(form, "c1") for form in ("annealed", "soft_intro")
        ],
        "{:.1f} ({:.1f} to {:.1f}) at C2": [kl(form, "c2") for form in ("annealed", "soft_intro")],
        "{:.1f} ({:.1f} to {:.1f}) at C3": [kl(form, "c3") for form in ("annealed", "soft_intro")],
        "| {:.1f} ({:.1f} to {:.1f}) |": [
            kl(form, *everywhere) for form in ("annealed", "soft_intro")
        ],
        "ends {:.1f} times ({:.1f} to {:.1f}) worse": [
            kl(form, "c1") for form in ("as_intro", "soft_intro")
        ],
        "the ratio is {:.2f} ({:.2f} to {:.2f})": [
            kl(form, "c1") for form in ("as_intro", "annealed")
        ],
        "{:.2f} times ({:.2f} to {:.2f}) over all": [
            kl(form, *everywhere) for form in ("as_intro-real", "annealed")
        ],
        "in each setting, {:.2f} ({:.2f} to {:.2f}) over all": [
            kl(form, *everywhere) for form in ("as_intro-real", "soft_intro")
        ],
        "| {:.2f} ({:.2f} to {:.2f}) | 0.93": [
            kl(form, *everywhere, study=warm) for form in ("as_intro", "soft_intro")
        ],
        "without one scores {:.2f} times ({:.2f} to {:.2f})": [
            kl("soft_intro", "c2"),
            kl("soft_intro", "c2", study=warm),
        ],
        "real images {:.2f} times ({:.2f} to {:.2f})": [
            kl("as_intro-real", "c2"),
            kl("as_intro-real", "c2", study=warm),
        ],
        "it is {:.1f} times ({:.1f} to {:.1f}) worse": [
            kl("as_intro-official", "c1"),
            kl("soft_intro", "c1", study=warm),
        ],
    }.items():
        effect = paired_ratio(one, other)
        assert words.format(effect.estimate, effect.low, effect.high) in text
    real = [kl(form, *everywhere, study=warm) for form in ("as_intro-real", "soft_intro")]
    assert f"| {paired_ratio(*real).estimate:.2f}, the settings disagree |" in text
    five = [
        [json.loads(path.read_text())["metrics"]["protocol_kl"] for path in sorted(paths)]
        for paths in (
            runs.glob("toy_ablation/no-distance/[0-4]/record.json"),
            runs.glob("toy_laptop/8gaussians-c1/soft_intro/[0-4]/record.json"),
        )
    ]
    effect = paired_ratio(*five)
    assert f"| {effect.estimate:.2f} ({effect.low:.2f} to {effect.high:.2f}), C1 |" in text
    apart = [paired_ratio(kl("as_intro-real", c), kl("annealed", c)).estimate for c in everywhere]
    assert "is {:.2f}, {:.2f} and {:.2f} times that of the control".format(*apart) in text
    forms = ("as_intro-real", "annealed", "soft_intro")
    assert [whole(form, *everywhere) for form in forms] == [25, 0, 18]
    ratios = [
        paired_ratio(kl("as_intro-real", c), kl("soft_intro", c)).estimate for c in everywhere
    ]
    assert max(ratios) < 1
    d = np.log(kl("as_intro-real", *everywhere)) - np.log(kl("soft_intro", *everywhere))
    assert round((2.8 * d.std(ddof=1) / d.mean()) ** 2 / 30) == 4  # times as many pairs
    kept = [
        metrics["modes_found"]
        for form in ("soft_intro", "as_intro", "as_intro-real")
        for metrics in of(form, "c2", warm)
    ]
    assert (min(kept), max(kept)) == (2, 6)
