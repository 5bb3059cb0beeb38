"""Animations for the pages: they play in the browser, where there is no kernel, and ask for nothing from elsewhere."""

import hashlib
import html
import re

from IPython.display import HTML
from matplotlib.animation import Animation

# U+FE0E after a character asks for text, not for a coloured picture.
ICONS = {
    "Decrease speed": "−",
    "First frame": "|◀\ufe0e",
    "Previous frame": "◁",
    "Play backwards": "◀\ufe0e",
    "Pause": "||",
    "Play": "▶\ufe0e",
    "Next frame": "▷",
    "Last frame": "▶\ufe0e|",
    "Increase speed": "+",
}
"""Name of a button of matplotlib's player -> the character that stands for the icon it would fetch."""

STYLE = "<style>.animation, .animation img, input[type=range].anim-slider { max-width: 100%; }</style>\n"


def player(animation: Animation, alt: str) -> HTML:
    """The animation as frames with buttons, for a cell's output: it plays on demand, in a static page too.

    alt: what the frames show, read out in their place; ValueError where it is empty. The icon font that matplotlib's
    player links to becomes characters, buttons and slider get names, nothing is wider than the page, and the same
    frames give the same text.
    """
    if not alt.strip():
        raise ValueError(f"alt={alt!r} is empty; say in one sentence what the animation shows")
    page = re.sub(r"<link[^>]*>\s*", "", animation.to_jshtml(default_mode="once"))
    page = re.sub(r'<button title="([^"]*)"[^>]*?(onclick="[^"]*")>\s*<i [^>]*></i>', _button, page)
    page = page.replace("<img id=", f'<img alt="{html.escape(alt)}" id=', 1)
    page = page.replace('<input id="_anim_slider', '<input aria-label="Frame" id="_anim_slider', 1)
    return HTML(STYLE + _named_by_content(page))  # type: ignore[no-untyped-call]


def _button(match: re.Match[str]) -> str:
    """The opening of a button, its name kept and its icon replaced."""
    name, action = match.groups()
    return f'<button type="button" title="{name}" aria-label="{name}" {action}>{ICONS[name]}'


def _named_by_content(page: str) -> str:
    """The page with the random part of its element ids replaced by a hash of all the rest."""
    (random,) = set(re.findall(r'"_anim_img([0-9a-f]{32})"', page))
    return page.replace(random, hashlib.sha256(page.replace(random, "").encode()).hexdigest()[:32])
