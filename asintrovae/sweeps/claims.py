"""Claims of the papers, each with the effect in the recorded runs and a verdict.

An effect compares runs of one version of the code alone (`record["code"]`); those of another are
left out and counted.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy
from scipy import stats

from asintrovae.evaluation.statistics import (
    Effect,
    bootstrapped,
    difference,
    holm,
    paired_ratio,
    ratio,
    share,
)
from asintrovae.running.records import load_records, read_history

Records = Mapping[str, Mapping[str, Any]]
"""Path of a run below the folder of all runs -> its record."""

KL_FACTOR = 1.5
"""Smallest effect of interest on the protocol KL and on spreads, a factor."""
FID_FACTOR = 1.2
"""Smallest effect of interest on FID, a factor."""
SHARE_MARGIN = 0.1
"""Smallest effect of interest on a share of runs: ten points."""
PSNR_MARGIN = 0.5
"""Smallest effect of interest on PSNR, in dB."""
BOARD_FLOOR = 17.2
"""Mean protocol KL of 5,000 points of the checkerboard against 5,000 others, of 20 pairs."""
JSD_FLOOR = 0.31
"""Mean protocol "JSD" of 5,000 points of 8 Gaussians against 5,000 others, of 20 pairs."""

Score = Callable[[Mapping[str, Any]], float]
"""Takes the record of a run."""
HOLDS, FAILS = "holds", "does not hold"
EQUAL, UNDECIDED = "within the margin", "undecided"
BANDWIDTH = "toy_bandwidth_fresh"
"""Folder of the runs of AS-IntroVAE with a bandwidth, on seeds that chose nothing."""
SETTINGS = {data: [f"{data}-c{k}" for k in (1, 2, 3)] for data in ("8gaussians", "checkerboard")}
NAMES = {"8gaussians": "8 Gaussians", "checkerboard": "the checkerboard"}
FORMS = {
    "as_intro": "Eq. 7",
    "as_intro-real": "Eq. 7, D of real images",
    "as_intro-official": "as in its code",
}
"""Forms of AS-IntroVAE with ten seeds."""
PUBLISHED_KL = {  # S-IntroVAE and AS-IntroVAE of the toy tables, C1 to C3
    "8gaussians": ((50.2, 3.4), (136.5, 1.3), (46.2, 2.0)),
    "checkerboard": ((20.7, 20.4), (21.0, 20.6), (21.2, 20.9)),
}


@dataclass(frozen=True)
class Claim:
    """A claim and what the runs say.

    Attributes:
        key: short name.
        text: the claim, in a sentence.
        measure: what the effect is.
        effect: with its 95 % interval; the ends are NaN where there is one run of a kind.
        null: the effect if there were none; of a share, one half.
        claimed: "below" or "above" the null.
        margin: effects from the first to the second are of no interest.
        wide: the 90 % interval, which lies within the margin where two models are equivalent.
        runs: paths of the runs that the effect was computed from.
        left_out: number of runs left out because of another version of the code.
        published: the effect by the papers, NaN where they give none.
        chapter: file of the chapter with the details.
        mixed: runs of several versions of the code are compared all the same.
        settings: the effect in each setting of the weights, where the effect pools several.
        corrected: the p-value, corrected for all claims, from `judged`.
        verdict: HOLDS, FAILS, EQUAL or UNDECIDED, from `judged`.
    """

    key: str
    text: str
    measure: str
    effect: Effect
    null: float
    claimed: str
    runs: tuple[str, ...]
    chapter: str
    margin: tuple[float, float] = (math.nan, math.nan)
    wide: Effect | None = None
    left_out: int = 0
    published: float = math.nan
    mixed: bool = False
    settings: tuple[Effect, ...] = ()
    corrected: float = math.nan
    verdict: str = UNDECIDED

    def clear_settings(self, alpha: float = 0.05) -> tuple[Effect, ...]:
        """Return the effects in single settings that are clear after a correction for them all."""
        p_values = holm([effect.p_value for effect in self.settings])
        pairs = zip(self.settings, p_values, strict=True)
        return tuple(effect for effect, p in pairs if p < alpha)

    @property
    def settings_disagree(self) -> bool:
        """Whether the effect is clear in one setting at least, and of the other sign in another."""
        sides = {effect.estimate < self.null for effect in self.settings}
        return len(sides) == 2 and bool(self.clear_settings())

    @property
    def excludes_published(self) -> bool:
        """Whether the interval excludes the papers' effect, if they give one of interest."""
        known = not math.isnan(self.published + self.effect.low)
        small = self.margin[0] <= self.published <= self.margin[1]
        return known and not small and self.effect.excludes(self.published)


def claims(folder: Path) -> list[Claim]:
    """Return all claims with their verdicts.

    Args:
        folder: of all recorded runs, `embedded("runs")`.
    """
    records = load_records(folder)
    return judged([*of_points(records), *of_maps(records), *of_images(records, folder)])


def judged(found: Sequence[Claim], alpha: float = 0.05) -> list[Claim]:
    """Return claims with their verdicts.

    EQUAL where the 90 % interval lies within the margin (two one-sided tests at alpha) and no
    single setting of the weights has a clear effect. Else HOLDS or FAILS where the p-value,
    corrected for all claims that have one (Holm), is below alpha; a share of runs, which has none,
    counts where its interval excludes the null. Else UNDECIDED.

    Args:
        found: claims, whatever their verdict.
        alpha: level.
    """
    tested = [claim for claim in found if not math.isnan(claim.effect.p_value)]
    corrected = holm([claim.effect.p_value for claim in tested])
    p_values = {claim.key: p for claim, p in zip(tested, corrected, strict=True)}
    given = [replace(claim, corrected=p_values.get(claim.key, math.nan)) for claim in found]
    return [replace(claim, verdict=verdict(claim, alpha)) for claim in given]


def verdict(claim: Claim, alpha: float) -> str:
    """Return the verdict on a claim whose p-value, if it has one, is corrected."""
    effect, wide, (low, high) = claim.effect, claim.wide, claim.margin
    within = wide is not None and low <= wide.low and wide.high <= high
    if within and not claim.clear_settings(alpha):
        return EQUAL
    if not math.isnan(claim.corrected):
        clear = claim.corrected < alpha
    else:
        clear = not math.isnan(effect.low) and effect.excludes(claim.null)
    if not clear:
        return UNDECIDED
    as_claimed = (effect.estimate < claim.null) == (claim.claimed == "below")
    return HOLDS if as_claimed else FAILS


def hours(records: Records) -> float:
    """Return the hours of one processor core that runs took; those trained together share them."""
    seconds = (run["seconds"] / (run.get("trained_together") or 1) for run in records.values())
    return float(sum(seconds)) / 3600


# --- points


def of_points(records: Records) -> list[Claim]:
    """Claims of the toy tables."""
    found = []
    floors = {"8gaussians": 0.0, "checkerboard": BOARD_FLOOR}
    published = {
        data: math.exp(
            numpy.mean(
                [math.log((ours - floors[data]) / (other - floors[data])) for other, ours in scores]
            )
        )
        for data, scores in PUBLISHED_KL.items()
    }
    of_kl = "ratio of protocol KL, AS / S"
    above = f"ratio of what protocol KL has above {BOARD_FLOOR}, its floor, AS / S"
    for data, kernel in product(SETTINGS, ("mean", "product")):
        claim = of_pairs(
            records,
            f"{data}-{kernel}",
            f"AS-IntroVAE ({kernel} kernel) is better than S-IntroVAE on {NAMES[data]}",
            [
                tuple(f"toy_laptop/{row}/{m}/{seed}" for m in (f"as_intro-{kernel}", "soft_intro"))
                for row, seed in product(SETTINGS[data], range(5))
            ],
            above if floors[data] else of_kl,
            partial(excess_kl, floors[data]),
        )
        found.append(replace(claim, published=published[data]))
    near = [(f"toy_drawing/as_intro/{s}", f"toy_drawing/soft_intro/{s}") for s in range(5)]
    text = "AS-IntroVAE is better than S-IntroVAE near the floor of 8 Gaussians"
    measure = f'ratio of what "JSD" has above {JSD_FLOOR}, its floor, AS / S'
    excess = lambda run: run["metrics"]["protocol_jsd"] - JSD_FLOOR  # noqa: E731
    drawing = of_pairs(records, "drawing", text, near, measure, excess)
    found.append(replace(drawing, chapter="12_near_the_floor"))
    for form, words in FORMS.items():
        ten = [
            tuple(f"toy_official/{row}/{model}/{seed}" for model in (form, "soft_intro"))
            for row, seed in product(SETTINGS["8gaussians"], range(10))
        ]
        text = f"AS-IntroVAE ({words}) is better than S-IntroVAE on 8 Gaussians, ten seeds"
        claim = of_pairs(records, f"ten-{form}", text, ten)
        found.append(replace(claim, published=published["8gaussians"]))
    found += [*without_a_warm_up(records)]
    found.append(spread_of_seeds(records))
    collapsed = lambda run: run["metrics"]["active_units"] == 0  # noqa: E731
    diverged = lambda run: run["status"] == "diverged"  # noqa: E731
    low = [f"toy_laptop/8gaussians-{c}/vae/" for c in ("c1", "c3")]
    for key, where, folders, chapter in (
        ("collapse-low", "β_kl 0.3 and 0.2 (C1, C3)", low, "11_toy_results"),
        ("collapse-high", "β_kl 0.5 (C2)", ["toy_laptop/8gaussians-c2/vae/"], "11_toy_results"),
        ("collapse-alone", "β_kl 0.3, the runs of chapter 1", ["vae_c1/vae-"], "01_vae"),
    ):
        text = f"A VAE collapses on 8 Gaussians, {where}"
        measure = "share of VAEs without an active latent axis"
        found.append(share_of(records, key, text, measure, folders, collapsed, chapter))
    text, measure = "IntroVAE diverges on the checkerboard", "share of runs that diverged"
    boards = [f"toy_laptop/{row}/intro/" for row in SETTINGS["checkerboard"]]
    found.append(share_of(records, "divergence", text, measure, boards, diverged))
    return found


def without_a_warm_up(records: Records) -> Iterator[Claim]:
    """Yield the claims of runs whose game begins at c = 0, and of the form in code that has a
    warm-up."""
    cold = [  # runs of C1 to C3
        "toy_warmup/{}/{}",
        "toy_warmup_c2_c3/8gaussians-c2/{}/{}",
        "toy_warmup_c2_c3/8gaussians-c3/{}/{}",
    ]
    of_kl, of_distance = "ratio of protocol KL, AS / S", "ratio of protocol KL, with D / without"
    eq7, real, control = "Eq. 7", "Eq. 7, D of real images", "its control without D"
    plain, where = "both without a warm-up", ("C1 of 8 Gaussians", "8 Gaussians")
    for key, form, ours, other, theirs, settings, measure in (
        ("as_intro", eq7, "as_intro", "S-IntroVAE", "soft_intro", 1, of_kl),
        ("as_intro-real", real, "as_intro-real", "S-IntroVAE", "soft_intro", 3, of_kl),
        ("annealed", "Eq. 7 without any D", "annealed", "S-IntroVAE", "soft_intro", 3, of_kl),
        ("distance-real", real, "as_intro-real", control, "annealed", 3, of_distance),
        ("distance", eq7, "as_intro", control, "annealed", 1, of_distance),
    ):
        pairs = [
            tuple(path.format(model, seed) for model in (ours, theirs))
            for path, seed in product(cold[:settings], range(10))
        ]
        text = f"AS-IntroVAE ({form}) is better than {other}, {plain}, {where[settings > 1]}"
        claim = of_pairs(records, f"warm-up-{key}", text, pairs, measure)
        yield replace(claim, chapter="06_as_introvae")
    text = "AS-IntroVAE (as in its code, but with a warm-up) is better than S-IntroVAE, C1"
    paths = "toy_warmup/as_intro-official", "toy_official/8gaussians-c1/soft_intro"
    pairs = [tuple(f"{name}/{seed}" for name in paths) for seed in range(10)]
    claim = of_pairs(records, "warm-up-official", f"{text} of 8 Gaussians", pairs, of_kl)
    yield replace(claim, chapter="06_as_introvae")


def excess_kl(floor: float, run: Mapping[str, Any]) -> float:
    """Return what the protocol KL of a run has above a floor."""
    return float(run["metrics"]["protocol_kl"]) - floor


def of_pairs(
    records: Records,
    key: str,
    text: str,
    pairs: Sequence[tuple[str, ...]],
    measure: str = "ratio of protocol KL, AS / S",
    score: Score | None = None,
) -> Claim:
    """Return the claim that the first run of a pair has the lower score (None: protocol KL)."""
    score = score or partial(excess_kl, 0.0)
    same = [pair for pair in pairs if one_version(records, pair)]
    a, b = ([score(records[pair[k]]) for pair in same] for k in (0, 1))
    settings: dict[str, list[int]] = {}  # places of the runs of each
    for place, (name, _) in enumerate(same):
        settings.setdefault(name.rpartition("/")[0], []).append(place)
    each = [
        paired_ratio([a[k] for k in places], [b[k] for k in places])
        for places in settings.values()
        if len(settings) > 1 and len(places) > 1
    ]
    return Claim(
        key,
        text,
        measure,
        paired_ratio(a, b),
        1.0,
        "below",
        tuple(name for pair in same for name in pair),
        "11_toy_results",
        (1 / KL_FACTOR, KL_FACTOR),
        paired_ratio(a, b, level=0.9),
        2 * (len(pairs) - len(same)),
        settings=tuple(each),
    )


def one_version(records: Records, names: Sequence[str]) -> bool:
    """Return whether runs were made by one version of the code."""
    return len({records[name]["code"] for name in names}) == 1


def spread_of_seeds(records: Records) -> Claim:
    """Return the claim that scores of AS-IntroVAE differ less between seeds on 8 Gaussians.

    The effect is the ratio of the standard deviations of log KL within a setting, with the F
    distribution's interval.
    """
    names, variances = [], []
    for model in ("as_intro-mean", "soft_intro"):
        rows = [[f"toy_laptop/{r}/{model}/{s}" for s in range(5)] for r in SETTINGS["8gaussians"]]
        logs = [[math.log(records[n]["metrics"]["protocol_kl"]) for n in row] for row in rows]
        variances.append(float(numpy.var(logs, axis=1, ddof=1).mean()))
        names += [name for row in rows for name in row]
    freedom, F = len(rows) * 4, variances[0] / variances[1]

    def interval(level: float) -> Effect:
        """Square roots of the interval of a ratio of variances."""
        reach = float(stats.f.ppf((1 + level) / 2, freedom, freedom))
        p_value = 2 * min(stats.f.cdf(F, freedom, freedom), stats.f.sf(F, freedom, freedom))
        return Effect(math.sqrt(F), math.sqrt(F / reach), math.sqrt(F * reach), float(p_value))

    return Claim(
        "spread",
        "AS-IntroVAE depends less on the seed than S-IntroVAE on 8 Gaussians",
        "ratio of the standard deviations of log KL over seeds, AS / S",
        interval(0.95),
        1.0,
        "below",
        tuple(names),
        "11_toy_results",
        (1 / KL_FACTOR, KL_FACTOR),
        interval(0.9),
    )


def share_of(
    records: Records,
    key: str,
    text: str,
    measure: str,
    folders: Sequence[str],
    counts: Callable[[Mapping[str, Any]], bool],
    chapter: str = "11_toy_results",
) -> Claim:
    """Return the claim that most runs of some folders count."""
    names = tuple(name for name in records if name.startswith(tuple(folders)))
    effect = share(sum(counts(records[name]) for name in names), len(names))
    return Claim(key, text, measure, effect, 0.5, "above", names, chapter)


# --- maps


def of_maps(records: Records) -> list[Claim]:
    """Claims of the maps over β_kl and β_neg, and of AS-IntroVAE with a bandwidth."""
    wide, plain, control = (
        f"{BANDWIDTH}/{form}" for form in ("bandwidth", "soft_intro", "no-distance")
    )
    ours = [name for name in records if name.startswith(f"{wide}/")]
    return [
        of_pairs(
            records,
            "bandwidth",
            "AS-IntroVAE with a bandwidth is better than S-IntroVAE on 8 Gaussians, 16 settings",
            [(name, name.replace(wide, plain, 1)) for name in ours],
        ),
        of_pairs(
            records,
            "bandwidth-distance",
            "AS-IntroVAE with a bandwidth is better than its control without D",
            [(name, name.replace(wide, control, 1)) for name in ours],
            "ratio of protocol KL, with D / without",
        ),
        of_map(
            records,
            "bandwidth-modes",
            "AS-IntroVAE with a bandwidth finds all modes more often than S-IntroVAE",
            (wide, plain),
        ),
        of_map(
            records,
            "map",
            "AS-IntroVAE holds at weights at which S-IntroVAE collapses",
            ("toy_map/as_intro", "toy_map/soft_intro"),
        ),
        of_map(
            records,
            "map-annealed",
            "AS-IntroVAE holds where S-IntroVAE collapses, β_kl annealed",
            ("toy_annealed/as_intro-annealed", "toy_annealed/soft_intro-annealed"),
        ),
        of_map(
            records,
            "map-mixed",
            "AS-IntroVAE holds where S-IntroVAE collapses, all seeds, two versions of the code",
            ("toy_map/as_intro", "toy_map/soft_intro"),
            mixed=True,
        ),
    ]


def of_map(
    records: Records, key: str, text: str, forms: tuple[str, str], mixed: bool = False
) -> Claim:
    """Return the claim that the first form finds all modes in more runs, cell by cell.

    The effect is the mean, over the weights, of the difference of the shares over seeds; weights
    are drawn anew by the bootstrap.
    """
    ours, theirs = forms
    pairs = [
        (name, name.replace(ours, theirs, 1)) for name in records if name.startswith(f"{ours}/")
    ]
    same = [pair for pair in pairs if mixed or one_version(records, pair)]
    cells: dict[str, list[int]] = {}
    for one, other in same:
        a, b = (records[n]["metrics"]["modes_found"] == 8 for n in (one, other))
        cells.setdefault(one.rpartition("/")[0], []).append(int(a) - int(b))
    gaps = [float(numpy.mean(values)) for values in cells.values()]
    mean = lambda values: float(numpy.mean(values))  # noqa: E731
    return Claim(
        key,
        text,
        "share of runs with all modes, AS − S",
        bootstrapped(mean, gaps),
        0.0,
        "above",
        tuple(name for pair in same for name in pair),
        "11_toy_results",
        (-SHARE_MARGIN, SHARE_MARGIN),
        bootstrapped(mean, gaps, level=0.9),
        2 * (len(pairs) - len(same)),
        mixed=mixed,
    )


# --- images


def of_images(records: Records, folder: Path) -> list[Claim]:
    """Claims of the image tables, of the supplement's ablation and of stability."""
    AS, S, mnist = "as_intro", "soft_intro", "images_mnist"
    fid, psnr, distance = (
        (lambda run, _, name=name: run["metrics"][name])
        for name in ("fid", "psnr", "frechet_mnist_classifier")
    )

    def early(run: Mapping[str, Any], name: str) -> float:
        """Mean error of real digits over the first fifth of a run."""
        rows = read_history(folder / name / "history.csv")
        fifth = run["config"]["iterations"] / 5
        return float(numpy.mean([r["encoder.rec"] for r in rows if r["iteration"] <= fifth]))

    def peak(run: Mapping[str, Any], name: str) -> float:
        """Highest logged KL divergence of real digits."""
        return max(row["encoder.kl"] for row in read_history(folder / name / "history.csv"))

    a_fifth = "ratio of the mean error R over the first T / 5, AS / S"
    kl_peak = "ratio of the highest KL divergence of real digits, AS / S"
    within = (1 / KL_FACTOR, KL_FACTOR)
    return [
        of_seeds(
            records,
            "fid-mnist",
            "AS-IntroVAE has the lower FID on MNIST, half an epoch",
            (mnist, AS, S),
            fid,
            published=96.16 / 98.84,
        ),
        of_seeds(
            records,
            "fid-cifar10",
            "AS-IntroVAE has the lower FID on CIFAR-10",
            ("images_cifar10", AS, S),
            fid,
            published=271.69 / 275.20,
        ),
        of_seeds(
            records,
            "distance-digits",
            "AS-IntroVAE has the lower classifier Fréchet distance on 6,000 digits",
            ("mnist_laptop", AS, S),
            distance,
            "ratio of classifier Fréchet distances, AS / S",
        ),
        *(
            of_seeds(
                records,
                f"{key}-{model}-vae",
                f"{words} has a lower {measure} than a VAE on {where}",
                (study, model, "vae"),
                score,
                f"ratio of {measure}, {words.removesuffix('-IntroVAE')} / VAE",
            )
            for key, study, where, score, measure in (
                ("fid", mnist, "MNIST, half an epoch", fid, "FID"),
                ("digits", "mnist_laptop", "6,000 digits", distance, "classifier Fréchet distance"),
            )
            for model, words in ((S, "S-IntroVAE"), (AS, "AS-IntroVAE"))
        ),
        of_seeds(
            records,
            "fid-wgan",
            "WGAN-GP has a higher FID than AS-IntroVAE on MNIST",
            (mnist, "wgan_gp", AS),
            fid,
            "ratio of FID, WGAN-GP / AS",
            claimed="above",
            published=139.02 / 96.16,
        ),
        of_seeds(
            records,
            "psnr-mnist",
            "AS-IntroVAE reconstructs better on MNIST",
            (mnist, AS, S),
            psnr,
            "difference of PSNR, AS − S, dB",
            claimed="above",
            margin=(-PSNR_MARGIN, PSNR_MARGIN),
            published=21.014 - 20.282,
        ),
        of_seeds(
            records,
            "psnr-digits",
            "AS-IntroVAE reconstructs better on 6,000 digits",
            ("mnist_laptop", AS, S),
            psnr,
            "difference of PSNR, AS − S, dB",
            claimed="above",
            margin=(-PSNR_MARGIN, PSNR_MARGIN),
        ),
        of_seeds(
            records,
            "distance-wgan",
            "WGAN-GP has a higher classifier Fréchet distance than AS-IntroVAE on 6,000 digits",
            ("mnist_laptop", "wgan_gp", AS),
            distance,
            "ratio of classifier Fréchet distances, WGAN-GP / AS",
            claimed="above",
        ),
        of_seeds(
            records,
            "ablation-0",
            "Annealing c is better than c = 0 on MNIST",
            (mnist, AS, "as_intro-c0"),
            fid,
            "ratio of FID, annealed / c = 0",
        ),
        of_seeds(
            records,
            "ablation-0.5",
            "Annealing c is better than c = 0.5 on MNIST",
            (mnist, AS, "as_intro-c0.5"),
            fid,
            "ratio of FID, annealed / c = 0.5",
        ),
        of_seeds(
            records,
            "start-error",
            "AS-IntroVAE learns faster at the start on MNIST",
            (mnist, AS, S),
            early,
            a_fifth,
            margin=within,
        ),
        of_seeds(
            records,
            "start-peak",
            "AS-IntroVAE is more stable at the start on MNIST",
            (mnist, AS, S),
            peak,
            kl_peak,
            margin=within,
        ),
    ]


def of_seeds(
    records: Records,
    key: str,
    text: str,
    kinds: tuple[str, str, str],
    score: Callable[[Mapping[str, Any], str], float],
    measure: str = "ratio of FID, AS / S",
    claimed: str = "below",
    margin: tuple[float, float] = (1 / FID_FACTOR, FID_FACTOR),
    published: float = math.nan,
) -> Claim:
    """Return the claim that one model scores lower or higher than another over a few seeds.

    Args:
        records: of all runs.
        key: short name.
        text: the claim.
        kinds: folder of the runs, and the two models that are compared.
        score: takes a record and the path of the run.
        measure: begins with "difference" where scores are subtracted; else they are divided.
        claimed: "below" or "above".
        margin: effects within it are of no interest.
        published: the effect by the papers.
    """
    data, *models = kinds
    names = [[n for n in records if re.fullmatch(rf"{data}/{m}[/-]\d+", n)] for m in models]
    codes = [Counter(records[name]["code"] for name in group) for group in names]
    code = max(codes[0] & codes[1], key=lambda code: min(codes[0][code], codes[1][code]))
    same = [[name for name in group if records[name]["code"] == code] for group in names]
    a, b = ([score(records[name], name) for name in group] for group in same)
    plain = measure.startswith("difference")
    if min(len(a), len(b)) > 1:
        compare = difference if plain else ratio
        effect, wide = compare(a, b), compare(a, b, level=0.9)
    else:
        estimate = numpy.mean(a) - numpy.mean(b) if plain else numpy.mean(a) / numpy.mean(b)
        effect, wide = Effect(float(estimate), math.nan, math.nan), None
    return Claim(
        key,
        text,
        measure,
        effect,
        0.0 if plain else 1.0,
        claimed,
        (*same[0], *same[1]),
        "13_image_results",
        margin,
        wide,
        sum(map(len, names)) - sum(map(len, same)),
        published,
    )
