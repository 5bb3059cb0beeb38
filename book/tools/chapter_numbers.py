"""Sphinx extension: a chapter has the number of its file, and no other page has one.

book/03_soft_introvae is Chapter 3 in the sidebar, in its title, in links to it and before the
numbers of its equations, figures and exercises. Sphinx can number all pages of a table of contents
or none.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import docname_join
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

CHAPTER = re.compile(r"book/(\d\d)_\w+")
COMPACT = (nodes.entry, nodes.term, nodes.definition)
"""Around a link that is an entry of a list rather than a part of a sentence."""


def number(page: str) -> int | None:
    """Return the number of a chapter; None for other pages."""
    match = CHAPTER.fullmatch(page)
    return int(match[1]) if match else None


def number_chapters(env: BuildEnvironment) -> list[str]:
    """Give the titles of chapters their numbers and return the pages that had others before."""
    before, env.toc_secnumbers = env.toc_secnumbers, {}
    for page, contents in env.tocs.items():
        if (chapter := number(page)) is None:
            continue
        title, *sections = contents.findall(nodes.reference)
        title["secnumber"] = env.titles[page]["secnumber"] = (chapter,)
        numbers: dict[str, tuple[int, ...]] = {section["anchorname"]: () for section in sections}
        env.toc_secnumbers[page] = {**numbers, title["anchorname"]: (chapter,)}
    return [page for page, numbers in env.toc_secnumbers.items() if before.get(page) != numbers]


class NumberLinks(SphinxPostTransform):
    """Put the number of a chapter into links that show its title."""

    default_priority = 8  # before MyST fills in titles

    def run(self, **options: Any) -> None:
        """Fill in the text of links to chapters that have none."""
        for link in list(self.document.findall(pending_xref)):
            page = docname_join(self.env.docname, link["reftarget"])
            chapter = number(page)
            bare = link["reftype"] == "myst" and not link["refexplicit"]
            if (
                not bare
                or link.get("reftargetid")
                or chapter is None
                or page not in self.env.titles
            ):
                continue
            title = self.env.titles[page].astext()
            compact = any(isinstance(around, COMPACT) for around in ancestors(link))
            text = (
                f"{chapter} {title}" if compact else f"Chapter\N{NO-BREAK SPACE}{chapter}, {title}"
            )
            link.children.clear()
            link += nodes.inline("", text)
            link["refexplicit"] = True


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """Return the elements around a node, from the inside out."""
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Here, and not on an event: figures and equations are numbered right after the sections.
    TocTreeCollectorWithStyles.assign_section_numbers = lambda _, env: number_chapters(env)
    app.add_post_transform(NumberLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
