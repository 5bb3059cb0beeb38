"""What was found of the papers' claims, as a table and as a forest plot."""

import html
import math
import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from asintrovae.figures.plots import forest
from asintrovae.figures.style import BLUE, GREEN, ORANGE
from asintrovae.figures.tables import Table
from asintrovae.sweeps.claims import EQUAL, FAILS, HOLDS, UNDECIDED, Claim

VERDICT_COLORS = {HOLDS: GREEN, FAILS: ORANGE, EQUAL: BLUE, UNDECIDED: "grey"}


class LinkedTable:
    """A table some of whose words are links, in the built page and nowhere else.

    Args:
        table: the table.
        links: words of its cells -> address, relative to the page.
    """

    def __init__(self, table: Table, links: Mapping[str, str]) -> None:
        self.table, self.links = table, links

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        text = self.table._repr_html_()
        words = (html.escape(word, quote=False) for word in self.links)
        longest = sorted(words, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest))
        return re.sub(
            rf"(?<!\w)(?:{pattern})(?!\w)",
            lambda found: f'<a href="{self.links[html.unescape(found[0])]}">{found[0]}</a>',
            text,
        )


def said(claim: Claim) -> str:
    """Return the verdict in words, with what the interval says of the published effect."""
    words = claim.verdict
    if words == UNDECIDED and claim.settings_disagree:
        words = f"{UNDECIDED}: the settings disagree"
    if claim.verdict == HOLDS or not claim.excludes_published:
        return words
    return f"{words}; the published {claim.published:.2g} is excluded"


def claims_table(claims: Sequence[Claim], details: bool = False) -> LinkedTable:
    """Return a row for each claim: the claim, the verdict, the effect with its 95 % interval.

    Args:
        claims: from `asintrovae.sweeps.claims.claims`.
        details: show the published effects, too, where there are any, the p-values, and how many
            runs an effect was computed from, with those left out.

    Returns:
        The table, whose claims are links to their chapters.
    """
    rows = []
    published = not all(math.isnan(claim.published) for claim in claims)
    for claim in claims:
        effect = claim.effect
        one = f"{effect.estimate:.3g}, one run each"
        interval = (effect.estimate, effect.low, effect.high)
        row = {
            "claim": claim.text,
            "verdict": said(claim),
            "effect (95 % interval)": one if math.isnan(effect.low) else interval,
        }
        if details and published:
            row["published"] = "–" if math.isnan(claim.published) else f"{claim.published:.2g}"
        if details:
            corrected = "" if math.isnan(claim.corrected) else f" ({p_text(claim.corrected)})"
            row["p (corrected)"] = p_text(effect.p_value) + corrected
            left_out = f" ({claim.left_out} left out)" if claim.left_out else ""
            row["runs"] = f"{len(claim.runs)}{left_out}"
        rows.append(row | {"effect is": claim.measure})
    return LinkedTable(Table(rows), {claim.text: f"{claim.chapter}.html" for claim in claims})


def p_text(p_value: float) -> str:
    """Return a p-value with two digits, or a dash where there is none."""
    if math.isnan(p_value):
        return "–"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.2g}"


def forest_figure(claims: Sequence[Claim], label: str) -> Figure:
    """Return a forest plot: each effect with its interval, its margin, and what was published.

    Args:
        claims: with effects of one kind; those above 0 with null 1 are drawn on logarithms.
        label: of the horizontal axis.
    """
    rows = []
    for claim in claims:
        effect = claim.effect
        one = math.isnan(effect.low)  # one run of each kind
        ends = (effect.estimate,) * 2 if one else (effect.low, effect.high)
        short = claim.text.replace(" is better than ", " / ").replace("-IntroVAE", "")
        rows.append((f"{short}: {claim.verdict}", effect.estimate, *ends))
    ratios = all(claim.null == 1 for claim in claims)
    return forest(
        rows,
        reference=claims[0].null,
        xlabel=label,
        log=ratios,
        colors=[VERDICT_COLORS[claim.verdict] for claim in claims],
        margins=[claim.margin for claim in claims],
        marks=[claim.published for claim in claims],
        counts=[len(claim.runs) for claim in claims],
    )
