"""Sphinx extension: the built pages ask for nothing but their own files, so that the book reads the
same without network.

Mathematics comes from the MathJax that the package sphinx-mathjax-offline carries, drawn as SVG;
widgets are drawn by book/static/static_widgets.js, which loads the library of the lab from the
package where a page has a lab; what a theme adds from elsewhere, and what needs a server, is
dropped. A browser does not let a page opened as a file load fonts or read other pages: icon fonts
are put into their style sheet, and search shows titles alone.
"""

import base64
import functools
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image
from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset


def drop_foreign_files(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: object,
) -> None:
    """Keep only style sheets and scripts that are files of the book, each once."""
    for kind in ("css_files", "script_files"):
        own = {
            _description(file): file
            for file in context.get(kind, [])
            if _is_own(_description(file))
        }
        context[kind] = list(own.values())
    context["default_mode"] = "auto"


def _description(file: Any) -> str:
    """File name of a style sheet or script, or the text of an inline one."""
    return str(getattr(file, "filename", file) or getattr(file, "attributes", {}).get("body", ""))


def _is_own(description: str) -> bool:
    # thebe: live cells need a server, and its loader fetches from elsewhere.
    return not (description.startswith(("http:", "https:", "//")) or "thebe" in description.lower())


def finish_pages(app: Sphinx, error: Exception | None) -> None:
    """Put MathJax beside the pages and fonts into style sheets, and mend what the theme writes into
    every page."""
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    copy_mathjax(static)
    copy_library(static)
    for sheet in static.glob("vendor/fontawesome/*/css/*.css"):
        sheet.write_text(embed_fonts(sheet), encoding="utf-8")
    for page in set(Path(app.outdir).rglob("*.html")) - set(static.rglob("*.html")):
        html = page.read_text(encoding="utf-8")
        for pattern, replacement in MENDED.items():
            html = re.sub(pattern, replacement, html)
        html = with_sizes(html, page.parent)
        page.write_text(html, encoding="utf-8")


def with_sizes(html: str, folder: Path) -> str:
    """Return a page whose images have their width and height, so that text below them stays where
    it is while they load."""

    def sized(image: re.Match[str]) -> str:
        size = image_size(folder / unquote(image[1])) if "width=" not in image[0] else None
        return f'<img width="{size[0]}" height="{size[1]}"{image[0][4:]}' if size else image[0]

    return re.sub(r'<img [^>]*?src="([^":]+)"[^>]*>', sized, html)


@functools.cache
def image_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of an image in pixels; None for a drawing that has none."""
    if path.suffix == ".svg":
        head = path.read_text(encoding="utf-8").split(">", 1)[0]
        found = re.search(r'width="(\d+)[^>]*height="(\d+)', head)
        return (int(found[1]), int(found[2])) if found else None
    with Image.open(path) as image:
        return image.size


def copy_mathjax(static: Path) -> None:
    """Copy MathJax from its package to the folder of static files."""
    spec = find_spec("sphinx-mathjax-offline")
    assert spec is not None
    assert spec.origin is not None
    copy_asset(Path(spec.origin).parent / "static" / "mathjax", static / "mathjax")


def copy_library(static: Path) -> None:
    """Copy what the lab computes with to the place where static_widgets.js looks for it."""
    spec = find_spec("asintrovae")
    assert spec is not None
    assert spec.origin is not None
    (file,) = (Path(spec.origin).parent / "figures" / "lab" / "vendor").glob("*.js")
    (static / "lab").mkdir(exist_ok=True)
    shutil.copyfile(file, static / "lab" / "library.js")


def embed_fonts(sheet: Path) -> str:
    """Text of a style sheet with its WOFF2 fonts inside: each once, without other formats and names
    of older versions."""

    def embedded(match: re.Match[str]) -> str:
        font = base64.b64encode((sheet.parent / match[1]).read_bytes()).decode()
        return f'url(data:font/woff2;base64,{font}) format("woff2")'

    current = re.sub(
        r"@font-face{[^}]*font-family:Font ?Awesome(\\ 5|;)[^}]*}",
        "",
        sheet.read_text(encoding="utf-8"),
    )
    return re.sub(
        r'url\(([^)]*\.woff2)\) format\("woff2"\),url\([^)]*\.ttf\) format\("truetype"\)',
        embedded,
        current,
    )


MENDED = {
    r'<link rel="preload" as="font"[^>]*>\s*': "",
    # The logo is a link outside all landmarks.
    r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand logo")': (
        '<div class="sidebar-primary-item" role="navigation" aria-label="Home">'
    ),
    # Docutils nests a deprecated role in a list, which then has no items for a screen reader.
    'role="doc-biblioentry"': 'role="listitem"',
    # A wide table scrolls on a narrow screen, by keyboard too.
    '<div class="pst-scrollable-table-container">': (
        '<div class="pst-scrollable-table-container" tabindex="0">'
    ),
    # So does a table that a cell has made.
    r'<div class="output text_html">(?=(?s:\s*(?:<div>)?\s*(?:<style.*?</style>)?)\s*<table)': (
        '<div class="output text_html" tabindex="0">'
    ),
}
"""Pattern in a built page -> what stands there instead."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.config.mathjax_path = "mathjax/tex-svg.js"
    app.config.html_search_scorer = str(Path(__file__).parents[1] / "static" / "search.js")
    app.add_js_file(
        None,
        body='if (location.protocol === "file:") '
        "DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;",
    )
    app.connect("html-page-context", drop_foreign_files, priority=900)
    app.connect("build-finished", finish_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
