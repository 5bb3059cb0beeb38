"""The page of the package in the book: every public name with its parameters, and links to it."""

import inspect
import re
from html import unescape

import pytest
import yaml
from conftest import ROOT
from small_book import build_small_book

import asintrovae

pytestmark = pytest.mark.xdist_group("small_book")
ENTRY = r'<dt class="sig[^>]*id="asintrovae\.{}">.*?</dt>\s*<dd>(.*?)(?=<dt class="sig|\Z)'
NOTATION = (
    "# Notation\n\nIn the code: `Gaussian.mean`, `as_distance`, `x_r`, `theory.networks.GAN`.\n"
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The built page of the package, and one that stands for the notation."""
    root = tmp_path_factory.mktemp("api") / "book"
    api = (ROOT / "book" / "appendix" / "api.md").read_text()
    other = "# Other\n\nCall `load_run(path)`, and `load_run` again.\n"
    texts = {"appendix/api": api, "notation": NOTATION, "other": other}
    return build_small_book(root, texts) / "book"


@pytest.fixture(scope="module")
def page(pages):
    return (pages / "appendix" / "api.html").read_text()


def text_of(html):
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


@pytest.mark.parametrize("name", sorted(asintrovae.__all__))
def test_every_public_name_is_there_with_its_parameters(page, name):
    (entry,) = re.findall(ENTRY.format(name), page, re.DOTALL)
    value = getattr(asintrovae, name)
    first = inspect.getdoc(value).splitlines()[0].split("`")[0]
    assert " ".join(first.split()) in text_of(entry).replace("’", "'").replace("–", "-")
    if name == "ParameterError":
        return
    signature = text_of(re.search(rf'id="asintrovae\.{name}">(.*?)</dt>', page, re.DOTALL)[1])
    explained = set(re.findall(r"<strong>(\w+)</strong>", entry))
    for parameter in inspect.signature(value).parameters:
        assert name == "RunConfig" or parameter in signature
        assert parameter in explained or parameter in text_of(entry), parameter
    assert name != "RunConfig" or explained >= set(value.model_fields)


def test_no_markup_is_left_on_the_page(page):
    """Neither a section that was not taken for one, nor an escaped character."""
    article = text_of(page[page.index("<article") : page.index("</article>")])
    assert not re.search(r"\b(Args|Attributes|Type): ", article)
    assert not re.search(r"\\[*|]", article)
    assert "problematic" not in page


def test_code_names_of_the_notation_lead_to_the_page(pages):
    text = (pages / "notation.html").read_text()
    links = re.findall(
        r'href="appendix/api.html#asintrovae\.(\w+)"[^>]*><code[^>]*>(.*?)</code>', text
    )
    assert [(name, text_of(shown)) for name, shown in links] == [
        ("Gaussian", "Gaussian.mean"),
        ("as_distance", "as_distance"),
    ]


def test_every_function_links_to_its_lines(page):
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for name in ("train", "RunConfig"):
        (entry,) = re.findall(
            rf'<dt class="sig[^>]*id="asintrovae\.{name}">.*?</dt>', page, re.DOTALL
        )
        (path, line) = re.search(rf'href="{url}/blob/main/([\w/.]+)#L(\d+)"', entry).groups()
        source = (ROOT / path).read_text().splitlines()[int(line) - 1 : int(line) + 1]
        assert re.search(rf"(def|class) {name}\b", " ".join(source))


def test_a_name_links_to_the_package_once_on_other_pages(pages):
    html = (pages / "other.html").read_text()
    assert html.count('href="appendix/api.html#asintrovae.load_run"') == 1
    assert html.count("load_<wbr>run") == 2
