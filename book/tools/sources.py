"""Sphinx extension: names of tests and of the package's code link to their source.

They break over lines at their underscores and dots. The page of the package links each of its
entries to the lines on GitHub.
"""

import functools
import inspect
import re
from pathlib import Path
from typing import Any

import asintrovae
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config

API = "book/appendix/api"
TEST = re.compile(r"(?m)^def (test_\w+)")
NAME = re.compile(r"(?:asintrovae\.)?(\w+)")
PLAIN = re.compile(r'(?<=<span class="pre">)[^<]+(?=</span>)')
JOINT = re.compile(r"(?<=\w)([_./])(?=\w)")


def repository_of(config: Config) -> tuple[str, str]:
    """Return address and branch of the repository that the book's configuration names."""
    options = config.html_theme_options
    return options["repository_url"], options["repository_branch"]


def address(repository: tuple[str, str], path: str, line: int) -> str:
    """Return where GitHub shows a line of a file, whose path begins at the repository's root."""
    url, branch = repository
    return f"{url}/blob/{branch}/{path}#L{line}"


def find_tests(root: Path) -> dict[str, tuple[str, int]]:
    """Return the file and line of each test function below root/tests."""
    found = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text()
        for match in TEST.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found[match[1]] = (path.relative_to(root).as_posix(), line)
    return found


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Link tests to their source, and the first mention of each public name to the package's page.

    On the notation page every mention of a public name is a link.
    """
    page, seen = app.env.docname, set()
    linked = page != API and API in app.env.found_docs
    tests = find_tests(Path(app.srcdir))
    for literal in list(doctree.findall(nodes.literal)):
        if isinstance(literal.parent, nodes.reference | nodes.title | pending_xref):
            continue
        text = literal.astext()
        match = NAME.match(text)
        if text in tests:
            uri = address(repository_of(app.config), *tests[text])
            wrap(literal, nodes.reference("", "", internal=False, refuri=uri))
        elif linked and match and match[1] in asintrovae.__all__:
            if match[1] not in seen:
                wrap(literal, link_to_package(page, match[1]))
            if page != "book/notation":
                seen.add(match[1])


def link_to_package(page: str, name: str) -> pending_xref:
    """Return a link to a public name that Sphinx resolves."""
    target = {"reftype": "obj", "reftarget": f"asintrovae.{name}", "refdoc": page}
    return pending_xref("", refdomain="py", refwarn=True, **target)


def wrap(node: nodes.Element, around: nodes.Element) -> None:
    """Put an element around a node."""
    node.replace_self(around)
    around += node


def break_names(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let code names break at underscores and dots; what is copied from the page stays whole."""
    if "body" in context:
        context["body"] = PLAIN.sub(lambda code: JOINT.sub(r"\1<wbr>", code[0]), context["body"])


def source_of(repository: tuple[str, str], domain: str, info: dict[str, str]) -> str | None:
    """Return the address of a public class, method or function; None where it has no lines."""
    value: Any = asintrovae
    for name in info["fullname"].split("."):
        value = getattr(value, name, None)
    try:
        path, line = Path(str(inspect.getsourcefile(value))), inspect.getsourcelines(value)[1]
    except (TypeError, OSError):  # an attribute
        return None
    root = Path(asintrovae.__file__).parents[1]
    if root not in path.parents:
        return None
    return address(repository, path.relative_to(root).as_posix(), line)


def set_linkcode(app: Sphinx, config: Config) -> None:
    """Tell sphinx.ext.linkcode where the source is."""
    config.linkcode_resolve = functools.partial(source_of, repository_of(config))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("config-inited", set_linkcode)
    app.connect("doctree-read", link_names)
    app.connect("html-page-context", break_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
