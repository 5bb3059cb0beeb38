"""Sphinx extension: the built pages ask for nothing but their own files, so that the book reads the same without network.

Mathematics comes from the MathJax that the package sphinx-mathjax-offline carries; widgets are drawn by
book/static/static_widgets.js; what a theme adds from elsewhere, and what needs a server, is dropped.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

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
        own = {_description(file): file for file in context.get(kind, []) if _is_own(_description(file))}
        context[kind] = list(own.values())
    context["default_mode"] = "auto"


def _description(file: Any) -> str:
    """File name of a style sheet or script, or the text of an inline one."""
    return str(getattr(file, "filename", file) or getattr(file, "attributes", {}).get("body", ""))


def _is_own(description: str) -> bool:
    # thebe: live cells need a server, and its loader fetches from elsewhere.
    return not (description.startswith(("http:", "https:", "//")) or "thebe" in description.lower())


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Put MathJax beside the pages."""
    if error is None and app.builder.format == "html":
        spec = find_spec("sphinx-mathjax-offline")
        assert spec is not None
        assert spec.origin is not None
        copy_asset(
            Path(spec.origin).parent / "static" / "mathjax",
            Path(app.outdir) / "_static" / "mathjax",
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("html-page-context", drop_foreign_files, priority=900)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
