"""Claims of the papers against the recorded runs: effects by hand, verdicts by their rules."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from asintrovae import histogram_divergences
from asintrovae.data import toy_density
from asintrovae.evaluation.statistics import Effect
from asintrovae.files import embedded
from asintrovae.randomness import generator_for
from asintrovae.sweeps.claims import (
    BOARD_FLOOR,
    EQUAL,
    FAILS,
    HOLDS,
    JSD_FLOOR,
    UNDECIDED,
    Claim,
    claims,
    hours,
    judged,
)

RUNS = embedded("runs")


@pytest.fixture(scope="module")
def found():
    return {claim.key: claim for claim in claims(RUNS)}


def record(name):
    return json.loads((RUNS / name / "record.json").read_text())


def test_the_effect_on_8_gaussians_by_hand(found):
    """Student's interval on the 15 differences of log KL, written out."""
    d = []
    for c in ("c1", "c2", "c3"):
        for seed in range(5):
            ours, theirs = (
                record(f"toy_laptop/8gaussians-{c}/{model}/{seed}")["metrics"]["protocol_kl"]
                for model in ("as_intro-mean", "soft_intro")
            )
            d.append(math.log(ours) - math.log(theirs))
    half = stats.t.ppf(0.975, 14) * np.std(d, ddof=1) / math.sqrt(15)
    effect = found["8gaussians-mean"].effect
    expected = np.exp([np.mean(d), np.mean(d) - half, np.mean(d) + half])
    assert [effect.estimate, effect.low, effect.high] == pytest.approx(expected)
    assert found["8gaussians-mean"].published == pytest.approx(
        (3.4 / 50.2 * 1.3 / 136.5 * 2.0 / 46.2) ** (1 / 3)
    )


def test_the_effect_on_the_checkerboard_is_of_what_lies_above_the_floor(found):
    """The floor is that of two samples of the board; by hand in one setting."""
    for name, floor, column in (("checkerboard", BOARD_FLOOR, 0), ("8gaussians", JSD_FLOOR, 1)):
        density, scores = toy_density(name), []
        for i in range(20):
            draws = (generator_for(2 * i + side, "evaluation") for side in (0, 1))
            pair = [density.sample(5000, generator) for generator in draws]
            scores.append(histogram_divergences(*pair, density.extent)[column])
        assert np.mean(scores) == pytest.approx(floor, rel=0.01)
    d = []
    for seed in range(5):
        ours, theirs = (
            record(f"toy_laptop/checkerboard-c2/{model}/{seed}")["metrics"]["protocol_kl"] - 17.2
            for model in ("as_intro-mean", "soft_intro")
        )
        d.append(math.log(ours / theirs))
    claim = found["checkerboard-mean"]
    assert claim.settings[1].estimate == pytest.approx(math.exp(np.mean(d)))
    assert claim.published == pytest.approx((3.2 / 3.5 * 3.4 / 3.8 * 3.7 / 4.0) ** (1 / 3))
    assert claim.verdict == EQUAL


def test_the_effect_on_the_map_by_hand(found):
    """Of the seeds whose runs of both models are of one version; Student's interval is near."""
    gaps = {}
    for path in (RUNS / "toy_map" / "as_intro").rglob("record.json"):
        name = path.parent.relative_to(RUNS / "toy_map" / "as_intro").as_posix()
        pair = [record(f"toy_map/{model}/{name}") for model in ("as_intro", "soft_intro")]
        if pair[0]["code"] == pair[1]["code"]:
            a, b = (run["metrics"]["modes_found"] == 8 for run in pair)
            gaps.setdefault(path.parents[1], []).append(a - b)
    each = [np.mean(gap) for gap in gaps.values()]
    half = stats.t.ppf(0.975, len(each) - 1) * np.std(each, ddof=1) / math.sqrt(len(each))
    claim = found["map"]
    assert claim.effect.estimate == pytest.approx(np.mean(each))
    assert claim.effect.high - claim.effect.low == pytest.approx(2 * half, rel=0.1)
    assert len(claim.runs) == 2 * sum(map(len, gaps.values()))
    assert len(claim.runs) + claim.left_out == 2 * 192


def test_the_spread_over_seeds_by_hand(found):
    """The share of ratios of simulated spreads that the interval covers."""
    effect, rng = found["spread"].effect, np.random.default_rng(0)
    noise = rng.standard_normal((2, 20_000, 3, 5))
    a, b = noise.std(-1, ddof=1) ** 2 @ np.ones(3) / 3
    simulated = np.sqrt(a / b)  # where both models spread alike
    low, high = effect.low / effect.estimate, effect.high / effect.estimate
    assert np.mean((low < simulated) & (simulated < high)) == pytest.approx(0.95, abs=0.01)


def test_runs_that_are_compared_were_made_by_one_version_of_the_code(found):
    """Pair by pair, or all together; a claim that mixes versions says so in its text."""
    for claim in found.values():
        codes = [record(name)["code"] for name in claim.runs]
        pairs = list(zip(codes[::2], codes[1::2], strict=False))
        one = len(set(codes)) == 1 or ("map" in claim.key and all(a == b for a, b in pairs))
        one |= claim.key == "drawing" and all(a == b for a, b in pairs)
        assert one != claim.mixed, claim.key
        assert claim.mixed == ("two versions" in claim.text)
    assert found["fid-wgan"].left_out == 1


def claim(key, effect, wide=None, margin=(0.5, 2.0), claimed="below"):
    return Claim(key, "", "", effect, 1.0, claimed, (), "", margin, wide)


def test_verdicts_follow_their_rules():
    clear, unclear = Effect(0.3, 0.2, 0.5, 0.001), Effect(0.8, 0.4, 1.6, 0.6)
    narrow = Effect(0.9, 0.8, 1.1)
    given = [
        claim("clear", clear, Effect(0.3, 0.25, 0.45)),
        claim("opposite", clear, Effect(0.3, 0.25, 0.45), claimed="above"),
        claim("unclear", unclear, Effect(0.8, 0.45, 1.4)),
        claim("equal", Effect(0.9, 0.7, 1.2, 0.5), narrow),
        claim("small", Effect(0.9, 0.85, 0.95, 0.001), narrow),  # of no interest
        claim("share", Effect(1.5, 1.2, 1.8), claimed="above"),
        claim("one seed", Effect(0.5, math.nan, math.nan)),
    ]
    verdicts = [claim.verdict for claim in judged(given)]
    assert verdicts == [HOLDS, FAILS, UNDECIDED, EQUAL, EQUAL, HOLDS, UNDECIDED]


def test_many_claims_are_corrected_for_their_number():
    """A p-value of 0.02 counts alone, and no longer beside four that say nothing."""
    one = claim("one", Effect(0.5, 0.3, 0.9, 0.02))
    others = [claim(str(k), Effect(1.0, 0.5, 2.0, 0.9)) for k in range(4)]
    assert judged([one])[0].verdict == HOLDS
    assert judged([one, *others])[0].verdict == UNDECIDED


@pytest.mark.parametrize(
    ("estimates", "p_values", "verdict", "disagree"),
    [
        ((1.2, 0.9), (0.5, 0.3), EQUAL, False),
        ((1.2, 0.9), (0.02, 0.3), UNDECIDED, True),
        ((2.0, 0.5), (0.001, 0.001), UNDECIDED, True),  # two clear effects that cancel
        ((1.2, 1.3), (0.02, 0.3), UNDECIDED, False),  # clear, and no other says the contrary
        ((1.2, 0.9), (0.03, 0.3), EQUAL, False),  # 0.06 after the correction for two settings
    ],
)
def test_a_clear_setting_forbids_equivalence(estimates, p_values, verdict, disagree):
    pairs = zip(estimates, p_values, strict=True)
    settings = tuple(Effect(estimate, 0.8, 1.4, p) for estimate, p in pairs)
    near = claim("near", Effect(1.0, 0.9, 1.1, 0.9))
    wide = Effect(1.0, 0.9, 1.1)
    near = replace(near, margin=(0.5, 2.0), wide=wide, settings=settings)
    assert judged([near])[0].verdict == verdict
    assert near.settings_disagree == disagree


def test_a_published_effect_is_excluded_only_where_there_is_one(found):
    assert found["8gaussians-mean"].excludes_published
    assert not found["checkerboard-mean"].excludes_published  # 0.98, of no interest
    assert not found["fid-mnist"].excludes_published
    assert not found["map"].excludes_published  # none is published
    assert not found["fid-cifar10"].excludes_published  # one seed has no interval


def test_runs_that_were_trained_together_share_their_hours():
    runs = {str(k): {"seconds": 7200, "trained_together": 4} for k in range(4)}
    assert hours(runs) == pytest.approx(2)
    assert hours({**runs, "alone": {"seconds": 3600}}) == pytest.approx(3)


def test_the_form_in_code_is_worse_by_about_four_and_the_papers_form_makes_no_difference(found):
    """The words of the home page; with D of real images the settings disagree."""
    assert found["ten-as_intro-real"].verdict == UNDECIDED
    assert found["ten-as_intro-real"].settings_disagree
    paper, code = (found[f"ten-{form}"] for form in ("as_intro", "as_intro-official"))
    assert (paper.verdict, code.verdict) == (EQUAL, FAILS)
    assert 3.5 < code.effect.estimate < 4.5
    assert paper.excludes_published
    assert len(paper.runs) == len(code.runs) == 60
    assert paper.left_out == code.left_out == 0
