"""What stands around a page's text: times, buttons, what search engines see, the PDF.

On a book of two pages.
"""

import json
import re
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import yaml
from book_tools import tool
from conftest import ROOT
from PIL import Image
from test_book import CHROMIUM
from test_repository import ELSEWHERE

pytestmark = pytest.mark.xdist_group("small_book")
SOURCES = sorted((ROOT / "book" / "src").glob("[0-9]*.md"))
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
OWNER, NAME = REPOSITORY["url"].split("/")[-2:]
PUBLISHED = f"https://{OWNER.lower()}.github.io/{NAME}/"


@pytest.fixture
def chapter(small_book):
    return (small_book / "book" / "01_small.html").read_text()


def links(html):
    return re.findall(r'<a[^>]+href="([^"]+)"', html)


def test_a_chapter_says_how_long_it_takes(chapter):
    """600 words and a few, at 200 a minute; 12.4 seconds in its record."""
    said = "About 3 minutes to read · runs in 12 s on two CPU cores, no GPU, no download"
    assert chapter.count(f'<p class="times">{said}</p>') == 1
    assert chapter.index('class="times"') > chapter.index("</h1>")
    assert "under 60 seconds" not in chapter


def test_pages_that_are_no_chapters_say_nothing_of_the_kind(small_book):
    assert 'class="times"' not in (small_book / "book" / "index.html").read_text()


@pytest.mark.parametrize(
    ("seconds", "machine", "expected"),
    [
        (0.2, "Linux x86_64, 2 cores", "in 1 s on two CPU cores"),
        (119.4, "Linux x86_64, 16 cores", "in 119 s on 16 CPU cores"),
        (170, "a machine", "in 3 min on a machine"),
    ],
)
def test_seconds_and_cores_in_words(seconds, machine, expected):
    pages = tool("pages")
    assert f"in {pages.duration(seconds)} on {pages.cores(machine)}" == expected


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_chapter_has_one_line_of_time(path):
    lines = [line[1:-1] for line in path.read_text().splitlines() if line.startswith("*")]
    assert sum(bool(tool("pages").TIME.fullmatch(line)) for line in lines) == 1


def test_a_chapter_has_its_number_everywhere(small_book, chapter):
    """In its title, that of its window, the side bar, links, and before those of equations."""
    assert '<h1><span class="section-number">1 </span>A small chapter' in chapter
    assert "<title>1 A small chapter " in chapter
    assert re.search(r'<span class="eqno">\(1\.1\)', chapter)
    assert re.search(r'href="#equation-eq-small">\(1\.1\)</a>', chapter)
    assert re.search(r">\s*Exercise 1\.1", chapter)
    index = (small_book / "book" / "index.html").read_text()
    assert "Its only chapter is <a" in index
    assert ">Chapter\N{NO-BREAK SPACE}1, A small chapter<" in index
    assert ">1 A small chapter</a>" in re.sub(r"\s+(?=<)|(?<=>)\s+", "", index)
    assert "<title>A small book " in index
    assert 'section-number">1 </span>A small chapter</p>' in index  # on the button to the next page


def test_a_test_links_to_its_lines_and_breaks_at_underscores(chapter):
    address = f"{REPOSITORY['url']}/blob/{REPOSITORY['branch']}/tests/test_small.py#L3"
    (link,) = re.findall(rf'<a [^>]*href="{re.escape(address)}"[^>]*>(.*?)</a>', chapter)
    assert ">test_<wbr>nothing_<wbr>is_<wbr>left<" in link


def test_formulas_keep_their_punctuation(chapter):
    assert re.search(
        r'"with-punctuation"><span class="math[^>]*>[^<]*D[^<]*</span>\.</span>', chapter
    )


@pytest.mark.parametrize(
    ("inside", "scrolls"),
    [
        ('<table class="table">', True),
        ("<div>\n<style scoped>\n td {}\n</style>\n<table border='1'>", True),
        ("<p>A text</p><table>", False),
    ],
)
def test_a_table_of_a_cell_scrolls_by_keyboard(inside, scrolls):
    html = f'<div class="output text_html">{inside}'
    for pattern, replacement in tool("offline").MENDED.items():
        html = re.sub(pattern, replacement, html)
    assert ('tabindex="0"' in html) == scrolls


def test_images_have_their_size(tmp_path):
    offline = tool("offline")
    Image.new("RGB", (30, 20)).save(tmp_path / "a b.png")
    (tmp_path / "c.svg").write_text('<svg width="104" height="20" viewBox="0 0 1 1"></svg>')
    (tmp_path / "d.svg").write_text('<svg viewBox="0 0 1 1"></svg>')
    names = ("a%20b.png", "c.svg", "d.svg")
    html = "".join(f'<img alt="A" src="{name}" />' for name in names)
    sized = offline.with_sizes(html, tmp_path)
    assert sized == (
        '<img width="30" height="20" alt="A" src="a%20b.png" />'
        '<img width="104" height="20" alt="A" src="c.svg" /><img alt="A" src="d.svg" />'
    )
    assert offline.with_sizes(sized, tmp_path) == sized


def test_a_chapter_can_be_downloaded_edited_and_discussed(small_book, chapter):
    found = links(chapter)
    assert f"{REPOSITORY['url']}/edit/{REPOSITORY['branch']}/book/src/01_small.md" in found
    assert any(
        link.startswith(f"{REPOSITORY['url']}/issues/new?title=") and "book/01_small" in link
        for link in found
    )
    (download,) = [link for link in found if link.endswith("01_small.ipynb") and "_sources" in link]
    notebook = json.loads((small_book / "book" / download).resolve().read_text())
    assert notebook["cells"][0]["source"][0].startswith("# A small chapter")
    colab = f"https://colab.research.google.com/github/{OWNER}/{NAME}/blob/{REPOSITORY['branch']}/book/01_small.ipynb"
    assert colab in found
    index = links((small_book / "book" / "index.html").read_text())
    assert f"{REPOSITORY['url']}/edit/{REPOSITORY['branch']}/book/index.md" in index


def test_next_and_previous_lead_on(small_book, chapter):
    assert re.search(
        r'class="right-next"\s+href="01_small.html"',
        (small_book / "book" / "index.html").read_text(),
    )
    assert re.search(r'class="left-prev"\s+href="index.html"', chapter)


def test_a_run_of_this_build_opens_and_is_edited_as_its_template():
    """Its own notebook is in no repository."""
    urls = {
        kind: f"{REPOSITORY['url']}/{kind}/main/book/runs/toy.ipynb" for kind in ("edit", "blob")
    }
    context = {
        "header_buttons": [
            {"type": "group", "buttons": [{"url": url} for url in urls.values()]},
            {"type": "button"},
        ]
    }
    tool("pages").point_to_sources(None, "book/runs/toy", "page.html", context, None)
    edit, blob = (button["url"] for button in context["header_buttons"][0]["buttons"])
    assert edit == f"{REPOSITORY['url']}/edit/main/book/src/training/toy.md"
    assert blob == f"{REPOSITORY['url']}/blob/main/book/training/toy.ipynb"
    for url in (edit.split("/main/")[1], blob.split("/main/")[1]):
        assert (ROOT / url).is_file()


def test_search_engines_and_previews_are_told_what_a_page_is(small_book, chapter):
    tags = dict(
        re.findall(r'<meta (?:property|name)="(og:[\w:]+|description)" content="([^"]*)"', chapter)
    )
    assert tags["og:title"] == "1 A small chapter"
    assert tags["og:site_name"] == yaml.safe_load((ROOT / "_config.yml").read_text())["title"]
    assert tags["og:url"] == f"{PUBLISHED}book/01_small.html"
    assert tags["og:image"] == f"{PUBLISHED}_static/card.png"
    assert tags["og:description"].startswith("Six hundred words. word word")
    assert tags["og:description"] == tags["description"]
    assert len(tags["description"]) <= 200
    assert f'<link rel="canonical" href="{PUBLISHED}book/01_small.html"' in chapter
    with Image.open(small_book / "_static" / "card.png") as card:
        assert card.size == (1200, 630)
        assert len(card.convert("L").getcolors(256)) > 50, "an empty card"


def test_the_sitemap_lists_the_pages(small_book):
    root = ElementTree.parse(small_book / "sitemap.xml").getroot()
    listed = [url.text for url in root.findall("{*}url/{*}loc")]
    assert listed == [f"{PUBLISHED}book/{page}.html" for page in ("01_small", "index")]


def test_another_address_of_the_pages_can_be_given():
    config = SimpleNamespace(
        html_theme_options={"repository_url": ELSEWHERE}, html_baseurl="", html_title="p"
    )
    tool("pages").set_addresses(None, config)
    assert config.html_baseurl == config.ogp_site_url == "https://some-one.github.io/another.book/"
    config.html_baseurl = "https://book.example.org/"
    tool("pages").set_addresses(None, config)
    assert config.html_baseurl == config.ogp_site_url == "https://book.example.org/"


def test_the_glossary_is_one_and_its_terms_are_linked():
    text = (ROOT / "book" / "appendix" / "glossary.md").read_text()
    terms = {
        term.strip() for line in re.findall(r"(?m)^(\S.*)\n  \S", text) for term in line.split("\n")
    }
    assert "```{glossary}" in text
    assert len(terms) > 30
    used = [
        (path.name, re.sub(r".*<(.*)>", r"\1", name))
        for path in [
            *(ROOT / "book" / "src").glob("*.md"),
            *(ROOT / "book").glob("*.md"),
            *(ROOT / "book").glob("*/*.md"),
        ]
        for name in re.findall(r"\{term\}`([^`]+)`", path.read_text())
    ]
    assert used
    assert {name for _, name in used} <= terms


@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: `make browser` installs it where it may"
)
def test_the_book_is_printed_as_one_pdf(small_book, tmp_path):
    from pypdf import PdfReader

    out = tmp_path / "book.pdf"
    command = [
        sys.executable,
        str(ROOT / "book" / "tools" / "pdf.py"),
        str(small_book.parents[1]),
        str(out),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pdf = PdfReader(out)
    assert [item.title for item in pdf.outline] == ["A small book", "1 A small chapter"]
    text = " ".join(page.extract_text() for page in pdf.pages)
    assert "witness: True" in text
    assert "A solution that was folded" in text
    assert "Right. Its posterior equals the prior" in text
    targets = {
        a["/A"].get("/URI")
        for page in pdf.pages
        for a in (b.get_object() for b in page.get("/Annots", []))
        if "/A" in a
    }
    assert f"{PUBLISHED}book/01_small.html" in targets
    assert not any("127.0.0.1" in str(target) for target in targets)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_book_that_is_not_built_cannot_be_printed(tmp_path):
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    command = [sys.executable, str(ROOT / "book" / "tools" / "pdf.py"), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "book/index.html is not built; run make book first" in result.stderr
    assert len(result.stderr.splitlines()) == 1


TEXTS = [*(ROOT / "book").glob("src/*.md"), *(ROOT / "book").rglob("appendix/*.md")]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_no_line_of_a_formula_begins_a_list(path):
    """A line that begins with "- " would end the formula and begin a list."""
    text = re.sub(r"^(```|~~~).*?^\1", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", text):
        items = re.split(r"\n(?=\s*(?:[-+*]|\d+\.)\s)", paragraph)
        for item in items[:-1]:
            assert item.replace("\\$", "").count("$") % 2 == 0, item
