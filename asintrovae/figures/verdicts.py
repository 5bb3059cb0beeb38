"""What was found of the papers' claims, as a table and as a forest plot."""

import html
import math
import re
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

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
        longest = sorted(map(html.escape, self.links), key=len, reverse=True)
        words = "|".join(map(re.escape, longest))
        return re.sub(
            rf"(?<!\w)(?:{words})(?!\w)",
            lambda found: f'<a href="{self.links[html.unescape(found[0])]}">{found[0]}</a>',
            text,
        )


def said(claim: Claim) -> str:
    """Return the verdict in words, with what the interval says of the published effect."""
    if claim.verdict == HOLDS or not claim.excludes_published:
        return claim.verdict
    return f"{claim.verdict}; the published {claim.published:.2g} is excluded"


def claims_table(claims: Sequence[Claim], details: bool = False) -> LinkedTable:
    """Return a row for each claim: the claim, the verdict, the effect with its 95 % interval.

    Args:
        claims: from `asintrovae.sweeps.claims.claims`.
        details: show what the effect measures, the published one, and how many runs it was
            computed from, with those left out.

    Returns:
        The table, whose claims are links to their chapters.
    """
    rows = []
    for claim in claims:
        effect = claim.effect
        one = f"{effect.estimate:.3g}, one run each"
        interval = (effect.estimate, effect.low, effect.high)
        row = {
            "claim": claim.text,
            "verdict": said(claim),
            "effect (95 % interval)": one if math.isnan(effect.low) else interval,
        }
        if details:
            row["effect is"] = claim.measure
            row["published"] = "–" if math.isnan(claim.published) else f"{claim.published:.2g}"
            left_out = f" ({claim.left_out} left out)" if claim.left_out else ""
            row["runs"] = f"{len(claim.runs)}{left_out}"
        rows.append(row)
    return LinkedTable(Table(rows), {claim.text: f"{claim.chapter}.html" for claim in claims})


def forest_figure(claims: Sequence[Claim], label: str) -> Figure:
    """Return a forest plot: each effect with its interval, its margin, and what was published.

    Args:
        claims: with effects of one kind; those above 0 with null 1 are drawn on logarithms.
        label: of the horizontal axis.
    """
    ratios = all(claim.null == 1 for claim in claims)
    figure, ax = plt.subplots(figsize=(5.2, 0.52 * len(claims) + 0.7))
    for y, claim in enumerate(reversed(claims)):
        color, effect = VERDICT_COLORS[claim.verdict], claim.effect
        if not math.isnan(claim.margin[0]):
            ax.plot(claim.margin, [y, y], color="0.88", lw=9, solid_capstyle="butt", zorder=0)
        ax.plot([effect.low, effect.high], [y, y], color=color, lw=2)
        ax.plot(effect.estimate, y, "o", color=color, ms=5)
        ax.plot(claim.published, y, "kx", ms=6)
        ax.plot([claim.null] * 2, [y - 0.3, y + 0.3], color="black", lw=0.8)
        words = textwrap.shorten(f"{claim.text}: {claim.verdict}", 96, placeholder=" …")
        place = ("axes fraction", "data")
        ax.annotate(words, (0, y + 0.45), xycoords=place, va="center", fontsize=7.5)
    ax.set(ylim=(-0.5, len(claims) - 0.2), yticks=[], xlabel=label)
    ax.spines["left"].set_visible(False)
    if ratios:
        ax.set_xscale("log")
        ticks = (0.03, 0.1, 0.3, 1, 3)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
    return figure
