"""Effects between runs with their intervals: what a comparison over seeds shows, and how much.

Scores of the tables are factors, so they are compared on logarithms: the effect of one model
against another is a ratio of geometric means. All intervals and tests are scipy's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
from scipy import stats

Scores = Sequence[float]
"""One number per run, of runs that differ in their seed only."""


@dataclass(frozen=True)
class Effect:
    """An estimate with its confidence interval.

    Attributes:
        estimate: of the effect.
        low: lower end of the interval.
        high: upper end of the interval.
        p_value: of the hypothesis that there is no effect, two-sided; NaN where none is computed.
    """

    estimate: float
    low: float
    high: float
    p_value: float = math.nan

    def __str__(self) -> str:
        """Three digits, such as "0.80 (0.68 to 0.95)"."""
        return f"{self.estimate:.3g} ({self.low:.3g} to {self.high:.3g})"

    def excludes(self, value: float) -> bool:
        """Return whether a value lies outside the interval."""
        return not self.low <= value <= self.high


def difference(a: Scores, b: Scores, level: float = 0.95) -> Effect:
    """Return mean(a) - mean(b) with Welch's interval (Welch 1947).

    Args:
        a: scores of at least two runs.
        b: scores of at least two runs; their number and spread may differ from those of a.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: for fewer than two scores on a side, or scores that are not finite.
    """
    a, b = checked("a", a), checked("b", b)
    test = stats.ttest_ind(a, b, equal_var=False)
    low, high = test.confidence_interval(level)
    return Effect(float(numpy.mean(a) - numpy.mean(b)), float(low), float(high), float(test.pvalue))


def ratio(a: Scores, b: Scores, level: float = 0.95) -> Effect:
    """Return the ratio of the geometric means of a and b, by Welch's interval on logarithms.

    Args:
        a: positive scores of at least two runs.
        b: positive scores of at least two runs.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: for fewer than two scores on a side, or scores that are not positive.
    """
    return exponential(difference(logarithms("a", a), logarithms("b", b), level))


def paired_ratio(a: Scores, b: Scores, level: float = 0.95) -> Effect:
    """Return the geometric mean of a / b over pairs of runs, by Student's interval on logarithms.

    Args:
        a: positive scores, one for each pair.
        b: positive scores of the same pairs, such as the same weights and seed, in the same order.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: for fewer than two pairs, unequal lengths, or scores that are not positive.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} scores, b has {len(b)}: pairs need the same number")
    logs = numpy.subtract(logarithms("a", a), logarithms("b", b))
    test = stats.ttest_1samp(logs, 0.0)
    low, high = test.confidence_interval(level)
    effect = Effect(float(logs.mean()), float(low), float(high), float(test.pvalue))
    return exponential(effect)


def bootstrapped(
    statistic: Callable[..., float],
    *samples: Scores,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Effect:
    """Return a statistic of samples with its BCa bootstrap interval (Efron 1987).

    Use it where Welch's interval fails: medians, or scores of two kinds of run.

    Args:
        statistic: takes the samples and returns a number.
        samples: scores; each is drawn anew on its own.
        level: of the interval, in (0, 1).
        resamples: how many times they are drawn.
        seed: of the draws.

    Raises:
        ValueError: for fewer than two scores in a sample, or scores that are not finite.
    """
    arrays = [numpy.asarray(checked(f"samples[{k}]", one)) for k, one in enumerate(samples)]
    generator = numpy.random.default_rng(seed)
    found = stats.bootstrap(
        arrays,
        statistic,
        vectorized=False,
        paired=False,
        confidence_level=level,
        n_resamples=resamples,
        method="BCa",
        rng=generator,
    )
    low, high = found.confidence_interval
    return Effect(float(statistic(*arrays)), float(low), float(high))


def probability_of_improvement(a: Scores, b: Scores, level: float = 0.95) -> Effect:
    """Return the probability that a run of a scores lower than a run of b, ties counting half.

    The interval is Newcombe's (2006, method 5), which also holds where all runs of a score lower.

    Args:
        a: scores of at least two runs, the lower the better.
        b: scores of at least two runs.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: for fewer than two scores on a side, or scores that are not finite.
    """
    a, b = checked("a", a), checked("b", b)
    m, n = len(a), len(b)
    test = stats.mannwhitneyu(b, a)
    theta = float(test.statistic) / (m * n)
    z = float(stats.norm.ppf((1 + level) / 2))
    half = (m + n) / 2 - 1

    def excess(value: float) -> float:
        """Squared distance of theta from a value, in standard errors at that value, less z²."""
        spread = value * (1 - value) / (m * n)
        shape = 1 + half * ((1 - value) / (2 - value) + value / (1 + value))
        return (theta - value) ** 2 - z**2 * spread * shape

    low = bisected(excess, 0.0, theta) if theta > 0 else 0.0
    high = bisected(excess, 1.0, theta) if theta < 1 else 1.0
    return Effect(theta, low, high, float(test.pvalue))


def share(successes: int, runs: int, level: float = 0.95) -> Effect:
    """Return a share of runs with Wilson's interval (Wilson 1927).

    Args:
        successes: runs that count, such as those that found all modes.
        runs: all runs, at least one.
        level: of the interval, in (0, 1).
    """
    interval = stats.binomtest(successes, runs).proportion_ci(level, method="wilson")
    return Effect(successes / runs, float(interval.low), float(interval.high))


def share_difference(
    successes_a: int, runs_a: int, successes_b: int, runs_b: int, level: float = 0.95
) -> Effect:
    """Return the difference of two shares of runs, a's less b's, with Newcombe's interval.

    It combines the Wilson intervals of both (Newcombe 1998, method 10); the p-value is Fisher's.

    Args:
        successes_a: runs of a that count.
        runs_a: all runs of a.
        successes_b: runs of b that count.
        runs_b: all runs of b.
        level: of the interval, in (0, 1).
    """
    a, b = share(successes_a, runs_a, level), share(successes_b, runs_b, level)
    estimate = a.estimate - b.estimate
    low = estimate - math.hypot(a.estimate - a.low, b.high - b.estimate)
    high = estimate + math.hypot(a.high - a.estimate, b.estimate - b.low)
    counts = [[successes_a, runs_a - successes_a], [successes_b, runs_b - successes_b]]
    return Effect(estimate, low, high, float(stats.fisher_exact(counts).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the order they came in.

    A comparison counts at level α where its corrected p-value is below α; the probability of one
    or more false ones among all is then at most α.
    """
    order = numpy.argsort(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        corrected[index] = largest
    return corrected


def equivalence(a: Scores, b: Scores, factor: float) -> float:
    """Return the p-value of the hypothesis that the ratio of a to b is not within a factor.

    Two one-sided Welch tests on logarithms (Schuirmann 1987). Below α the two are equivalent: their
    ratio lies between 1 / factor and factor, as its interval of level 1 - 2α does.

    Args:
        a: positive scores of at least two runs.
        b: positive scores of at least two runs.
        factor: the margin, above 1, stated before the runs.

    Raises:
        ValueError: for a factor of 1 or less, and as `ratio`.
    """
    if factor <= 1:
        raise ValueError(f"factor={factor}: the margin of a ratio must be above 1, such as 1.5")
    logs_a, logs_b = numpy.asarray(logarithms("a", a)), logarithms("b", b)
    margin = math.log(factor)
    below = stats.ttest_ind(logs_a - margin, logs_b, equal_var=False, alternative="less")
    above = stats.ttest_ind(logs_a + margin, logs_b, equal_var=False, alternative="greater")
    return float(max(below.pvalue, above.pvalue))


def power(effect: float, std: float, seeds: int, alpha: float = 0.05) -> float:
    """Return the probability that a two-sided t-test of two models finds a difference.

    Args:
        effect: true difference of the means, on the scale that is tested (logarithms for ratios).
        std: standard deviation over seeds on that scale, the same for both, above 0.
        seeds: runs of each model, at least two.
        alpha: level of the test.
    """
    freedom = 2 * seeds - 2
    shift = abs(effect) / std * math.sqrt(seeds / 2)
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    beyond = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
    return float(beyond)


def seeds_needed(effect: float, std: float, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """Return the number of runs of each model from which a difference is found often enough.

    Args:
        effect: smallest difference of interest, not 0, on the scale that is tested.
        std: standard deviation over seeds on that scale, above 0.
        wanted: power, in (0, 1).
        alpha: level of the test.

    Raises:
        ValueError: for an effect of 0, which no number of runs can find.
    """
    if effect == 0:
        raise ValueError("effect=0: no number of seeds finds it; state the smallest of interest")
    seeds = 2
    while power(effect, std, seeds, alpha) < wanted:
        seeds += 1
    return seeds


def bisected(excess: Callable[[float], float], outside: float, inside: float) -> float:
    """Return where a function changes its sign between two points; at `inside` it is not positive.

    `outside` is returned where it is not positive there either.
    """
    if excess(outside) <= 0:
        return outside
    for _ in range(60):
        middle = (outside + inside) / 2
        if excess(middle) > 0:
            outside = middle
        else:
            inside = middle
    return inside


def exponential(effect: Effect) -> Effect:
    """Return an effect on logarithms as a ratio."""
    estimate, low, high = map(math.exp, (effect.estimate, effect.low, effect.high))
    return Effect(estimate, low, high, effect.p_value)


def checked(name: str, scores: Scores) -> list[float]:
    """Return scores as numbers, if there are at least two and all are finite."""
    numbers = [float(score) for score in scores]
    if len(numbers) < 2:
        raise ValueError(f"{name} has {len(numbers)} scores: an interval needs at least two seeds")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} holds scores that are not finite: leave out runs that diverged")
    return numbers


def logarithms(name: str, scores: Scores) -> list[float]:
    """Return the logarithms of scores, if they are positive."""
    numbers = checked(name, scores)
    if min(numbers) <= 0:
        raise ValueError(f"{name} holds {min(numbers):.4g}: a ratio needs positive scores")
    return [math.log(number) for number in numbers]
