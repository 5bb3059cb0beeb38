"""Sphinx extension: the package's docstrings as a page.

The docstrings are text with shapes and formulas, not reStructuredText: |x|, 2**15 and the like are
shown as they are.
"""

import re
from typing import Any

import asintrovae
from docutils import nodes
from sphinx.application import Sphinx

LOSS = re.compile(r"(joint|encoder|decoder|critic|generator): ")
"""Beginning of a line with the loss of a phase; lines that go on with it are indented."""
PARAMETERS = {"Attributes:": "Args:"}
"""Attributes of a data class are the parameters of its constructor."""


def as_text(
    app: Sphinx, what: str, name: str, value: object, options: Any, lines: list[str]
) -> None:
    """Escape what reStructuredText would take for markup, and keep one formula a line."""
    given, example, formula = lines[:], False, False
    lines.clear()
    for line in given:
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        shown = line if example else re.sub(r"([*|])", r"\\\1", line)
        shown = re.sub(r"`(~[^`]*)`", r"``\1``", shown)  # else the role would take the tilde away
        before, begins = formula, bool(LOSS.match(line))
        formula = begins or (formula and line.startswith(" "))
        if formula != before:
            lines.append("")
        lines.append(f"| {shown}" if begins else PARAMETERS.get(shown, shown))


def in_short(
    app: Sphinx, what: str, name: str, value: object, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Return another signature for RunConfig, whose docstring lists the parameters."""
    return ("(**parameters)", "") if value is asintrovae.RunConfig else None


def without_lists(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Write signatures of several lines as spans, not as Sphinx's lists without terms."""
    if page == "book/appendix/api":
        context["body"] = re.sub(
            r'<dt class="sig.*?</dt>',
            lambda signature: re.sub(r"<(/?)(dl|dd)\b", as_span, signature[0]),
            context["body"],
            flags=re.DOTALL,
        )


def as_span(tag: re.Match[str]) -> str:
    """Return the beginning of a tag of a list as that of a span with its name as class."""
    return "</span" if tag[1] else f'<span class="{tag[2]}"'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", as_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", in_short)
    app.connect("html-page-context", without_lists)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
