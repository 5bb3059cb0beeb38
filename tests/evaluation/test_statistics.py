"""Intervals: closed forms, coverage by simulation, power that grows with the seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from asintrovae.evaluation.statistics import (
    Effect,
    bootstrapped,
    difference,
    equivalence,
    holm,
    paired_ratio,
    power,
    probability_of_improvement,
    ratio,
    seeds_needed,
    share,
    share_difference,
)

TRIALS = 1000


@pytest.fixture
def draw():
    return np.random.default_rng(7)


def covered(intervals, truth):
    """Share of intervals that hold the true value."""
    return np.mean([not effect.excludes(truth) for effect in intervals])


def test_difference_of_two_pairs_by_hand():
    """Means 2 and 5, variances 2 and 8, so that the standard error is sqrt(2 / 2 + 8 / 2)."""
    effect = difference([1, 3], [3, 7])
    freedom = (1 + 4) ** 2 / (1**2 + 4**2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(5)
    assert effect.estimate == -3
    assert (effect.low, effect.high) == pytest.approx((-3 - half, -3 + half))
    assert effect.p_value == pytest.approx(2 * stats.t.sf(3 / math.sqrt(5), freedom))


def test_a_ratio_is_the_difference_of_logarithms():
    a, b = [1.0, 2.0, 4.0], [2.0, 4.0, 8.0]
    effect, logs = ratio(a, b), difference(np.log(a), np.log(b))
    assert effect.estimate == pytest.approx(0.5)
    assert (effect.low, effect.high) == pytest.approx((math.exp(logs.low), math.exp(logs.high)))
    assert str(Effect(0.8, 0.684, 0.9512)) == "0.8 (0.684 to 0.951)"


@pytest.mark.parametrize(("m", "n", "spread"), [(5, 5, 1), (10, 20, 3), (20, 20, 0.3)])
def test_intervals_hold_the_true_ratio_as_often_as_they_say(draw, m, n, spread):
    """Log-normal scores, true ratio 1.5, spreads that differ."""
    effects = [
        ratio(1.5 * np.exp(draw.normal(0, 0.4, m)), np.exp(draw.normal(0, 0.4 * spread, n)))
        for _ in range(TRIALS)
    ]
    assert 0.93 <= covered(effects, 1.5) <= 0.97


def test_pairs_take_out_what_the_two_share(draw):
    effects, apart = [], []
    for _ in range(TRIALS):
        cell = draw.normal(0, 2, 12)
        a = np.exp(cell + draw.normal(0, 0.2, 12))
        b = np.exp(cell + draw.normal(0, 0.2, 12)) / 0.8
        effects.append(paired_ratio(a, b))
        apart.append(ratio(a, b))
    assert 0.93 <= covered(effects, 0.8) <= 0.97
    widths = [[effect.high / effect.low for effect in found] for found in (effects, apart)]
    assert np.median(widths[0]) < np.median(widths[1]) / 3


def test_the_probability_of_improvement_counts_pairs(draw):
    assert probability_of_improvement([1, 2], [2, 3]).estimate == (3 + 0.5) / 4
    best = probability_of_improvement([1, 2, 3], [4, 5, 6])
    assert best.estimate == best.high == 1
    assert 0.4 < best.low < 0.9
    truth = stats.norm.cdf(0.8 / math.sqrt(2))
    effects = [
        probability_of_improvement(draw.normal(0, 1, 10), draw.normal(0.8, 1, 10))
        for _ in range(TRIALS)
    ]
    assert 0.93 <= covered(effects, truth) <= 0.975


@pytest.mark.parametrize("truth", [0.4, 0.9])
def test_shares_of_runs_and_their_difference(draw, truth):
    assert share(0, 20).low == 0
    assert share(10, 20).estimate == 0.5
    counts = draw.binomial(64, truth, (TRIALS, 2)).tolist()
    assert 0.93 <= covered([share(a, 64) for a, _ in counts], truth) <= 0.98
    differences = [share_difference(a, 64, b, 64) for a, b in counts]
    assert 0.93 <= covered(differences, 0) <= 0.975


def test_a_bootstrapped_median(draw):
    effects = []
    for _ in range(200):
        scores = draw.exponential(1, 30)
        effects.append(bootstrapped(np.median, scores, resamples=400))
    assert 0.90 <= covered(effects, math.log(2)) <= 0.99
    a, b = [1.0, 2.0, 9.0], [1.0, 1.0, 2.0]
    effect = bootstrapped(lambda x, y: np.mean(x) / np.mean(y), a, b)
    assert effect.estimate == 3
    assert effect.low < 3 < effect.high


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_keeps_the_rate_of_false_findings(draw):
    p_values = draw.uniform(size=(4000, 8)).tolist()
    assert np.mean([min(holm(row)) < 0.05 for row in p_values]) == pytest.approx(0.05, abs=0.015)


def test_equivalence_is_found_where_it_holds_and_at_the_margin_as_seldom_as_it_says(draw):
    def found(true_ratio, seeds):
        pairs = np.exp(draw.normal(0, 0.3, (TRIALS, 2, seeds)))
        return np.mean([equivalence(true_ratio * a, b, 1.5) < 0.05 for a, b in pairs])

    of_twenty = found(1.0, 20)
    assert of_twenty > 0.95
    assert found(1.5, 20) == pytest.approx(0.05, abs=0.02)
    assert found(1.0, 5) < found(1.0, 10) < of_twenty


def test_power_grows_with_the_seeds_and_gives_their_number(draw):
    """The number of the textbooks: 64 of each group for half a standard deviation at 80 %."""
    assert seeds_needed(0.5, 1.0) == 64
    powers = [power(1.0, 1.0, seeds) for seeds in (3, 5, 10, 20)]
    assert powers == sorted(powers)
    assert power(0.0, 1.0, 10) == pytest.approx(0.05)
    tests = [difference(draw.normal(1, 1, 10), draw.normal(0, 1, 10)) for _ in range(TRIALS)]
    share_found = np.mean([effect.p_value < 0.05 for effect in tests])
    assert share_found == pytest.approx(powers[2], abs=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: difference([1], [1, 2]), "a has 1 scores: an interval needs at least two seeds"),
        (lambda: difference([1, math.nan], [1, 2]), "a holds scores that are not finite"),
        (lambda: ratio([1, 2], [0, 1]), "b holds 0: a ratio needs positive scores"),
        (lambda: paired_ratio([1, 2], [1, 2, 3]), "a has 2 scores, b has 3"),
        (lambda: equivalence([1, 2], [1, 2], 1.0), "factor=1.0: the margin of a ratio"),
        (lambda: seeds_needed(0, 1), "effect=0: no number of seeds finds it"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
