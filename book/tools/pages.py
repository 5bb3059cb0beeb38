"""Sphinx extension: what stands around a page's text.

How long it takes, where to edit it, what a search engine sees of it.

The address of the published pages follows from `repository` in _config.yml, unless `html: baseurl`
names another.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

WORDS_PER_MINUTE = 200
"""Of prose, read to be understood; formulas and code come on top."""
CHAPTER = re.compile(r"book/\d\d_\w+")
NOTEBOOK = re.compile(r"book/(\d\d_\w+|index|found|lab)")
"""Pages whose text is in book/src."""
RUN = re.compile(r"book/runs/(\w+)")
TIME = re.compile(
    r"(?:Budget:|Runs) (?:in )?(?P<limit>under \d+ seconds on two CPU cores), (?P<needs>.+)\."
)
"""A chapter's line of time, as its source has it."""
FORMULA = re.compile(
    r"([(\[“]?)<span class=\"math notranslate nohighlight\">[^<]*</span>([,.;:!?)\]”’]*)"
)
logger = logging.getLogger(__name__)


def set_addresses(app: Sphinx, config: Config) -> None:
    """GitHub Pages of the repository."""
    owner, name = config.html_theme_options["repository_url"].split("/")[-2:]
    config.html_baseurl = config.html_baseurl or f"https://{owner.lower()}.github.io/{name}/"
    config.ogp_site_url = config.html_baseurl
    config.ogp_site_name = config.html_title
    config.ogp_image, config.ogp_image_alt = (
        "_static/card.png",
        f"{config.html_title}: points of eight Gaussians on a ring",
    )
    config.html_theme_options["logo"] = {"text": config.html_title}
    config.ogp_social_cards = {"enable": False}  # one card for all pages, drawn below


def prose(doctree: nodes.document) -> Iterator[nodes.paragraph]:
    """Paragraphs of text, without the badge and the line of time."""
    for paragraph in doctree.findall(nodes.paragraph):
        badge = all(isinstance(child, nodes.reference) for child in paragraph.children)
        if not (badge or "times" in paragraph["classes"] or TIME.fullmatch(paragraph.astext())):
            yield paragraph


def minutes(words: int) -> str:
    """Reading time in words."""
    count = max(1, round(words / WORDS_PER_MINUTE))
    return f"{count} minute{'s' * (count > 1)}"


def cores(machine: str) -> str:
    """Return the cores of a machine, as execute.py describes it, in words."""
    match = re.search(r"(\d+) cores", machine)
    if match is None:
        return machine
    return f"{'two' if match[1] == '2' else match[1]} CPU cores"


def duration(seconds: float) -> str:
    """Return how long something takes, in seconds, or in minutes from two minutes on."""
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{round(seconds / 60)} min"


def add_times(app: Sphinx, doctree: nodes.document) -> None:
    """Put what was measured in the place of a chapter's line of time.

    The line reads `*Runs in under 60 seconds on two CPU cores, no GPU, no download.*`; what follows
    the cores is kept.
    """
    page = app.env.docname
    if not CHAPTER.fullmatch(page):
        return
    lines = ((line, TIME.fullmatch(line.astext())) for line in doctree.findall(nodes.paragraph))
    line, match = next(((line, match) for line, match in lines if match), (None, None))
    if line is None or match is None:
        example = "*Runs in under 60 seconds on two CPU cores, no GPU, no download.*"
        logger.warning("a chapter needs a line of time below its title: %s", example, location=page)
        return
    words = sum(len(paragraph.astext().split()) for paragraph in prose(doctree))
    run = nbformat.read(app.env.doc2path(page), as_version=4).metadata.get("execution")
    runs = f"in {duration(run['seconds'])} on {cores(run['machine'])}" if run else match["limit"]
    said = f"About {minutes(words)} to read · runs {runs}, {match['needs']}"
    line.replace_self(nodes.paragraph("", said, classes=["times"]))


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """A page is described by its first paragraph."""
    first = next(prose(doctree), None) if doctree else None
    if first is None:
        return
    text = re.sub(r"\s+", " ", first.astext())
    text = text if len(text) <= 200 else text[:197].rsplit(" ", 1)[0] + "..."
    context["meta"] = {**(context.get("meta") or {}), "og:description": text.replace("<", "&lt;")}
    context["metatags"] += '<meta name="description" content="{}" />\n'.format(
        text.replace('"', "&quot;").replace("<", "&lt;")
    )


def keep_punctuation(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Mark a formula together with the punctuation around it, which would else begin a line."""
    if "body" in context:
        context["body"] = FORMULA.sub(
            lambda found: (
                f'<span class="with-punctuation">{found[0]}</span>'
                if found[1] or found[2]
                else found[0]
            ),
            context["body"],
        )


def point_to_sources(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Edit the text in book/src, not the notebook; a run of this build opens as the notebook that
    it was made with."""
    run = RUN.fullmatch(page)
    notebook = f"book/training/{run[1]}" if run else page
    source = notebook.replace("book/", "book/src/", 1)
    for button in (
        button for group in context.get("header_buttons", []) for button in group.get("buttons", [])
    ):
        url = button.get("url", "")
        if "/edit/" in url and (run or NOTEBOOK.fullmatch(page)):
            button["url"] = url.replace(f"{page}.ipynb", f"{source}.md")
        elif "/blob/" in url:
            button["url"] = url.replace(f"{page}.ipynb", f"{notebook}.ipynb")


def write_site_files(app: Sphinx, error: Exception | None) -> None:
    """sitemap.xml with every page, those that this build did not have to write again included, and
    the card."""
    if error is not None or app.builder.format != "html":
        return
    root = ElementTree.Element("urlset", xmlns="http://www.sitemaps.org/schemas/sitemap/0.9")
    for page in sorted(app.env.found_docs):
        ElementTree.SubElement(
            ElementTree.SubElement(root, "url"), "loc"
        ).text = f"{app.config.html_baseurl}{page}.html"
    ElementTree.ElementTree(root).write(
        Path(app.outdir) / "sitemap.xml", encoding="utf-8", xml_declaration=True
    )
    draw_card(app.config.html_title, Path(app.outdir) / "_static" / "card.png")


def draw_card(title: str, path: Path) -> None:
    """What shows where an address of the book is shared: 1200 by 630 pixels."""
    import torch
    from asintrovae.data import toy_density
    from matplotlib.figure import Figure

    points = toy_density("8gaussians").sample(4000, torch.Generator().manual_seed(0))
    figure = Figure(figsize=(12, 6.3), dpi=100)
    axes = figure.add_axes((0.52, 0.05, 0.47, 0.9))
    axes.scatter(*points.T, s=2)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.text(0.06, 0.5, title.replace(" ", "\n"), fontsize=44, va="center", linespacing=1.4)
    figure.savefig(path)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", set_addresses)
    app.connect("doctree-read", add_times)
    app.connect("html-page-context", describe, priority=450)  # before opengraph
    app.connect("html-page-context", keep_punctuation)
    app.connect("html-page-context", point_to_sources, priority=900)  # after the theme
    app.connect("build-finished", write_site_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
