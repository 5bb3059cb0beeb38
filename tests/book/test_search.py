"""The search of the built book: what comes first, and what is shown of a page."""

import functools
import http.server
import threading

import pytest
from small_book import build_small_book
from test_book import CHROMIUM, QuietHandler

pytestmark = [
    pytest.mark.xdist_group("small_book"),
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no chromium on this machine: `make browser` installs it where it may",
    ),
]
FILLER = "Nothing of note happens in this sentence. " * 20
PAGES = {
    "rare": f"# A page\n\n{FILLER}A pangolin of $\\alpha = \\mathrm{{KL}}$ sleeps. {FILLER}\n",
    "common": f"# Another page\n\nI train, I test and I read. {FILLER}\n",
    "formula": f"# A third page\n\n{FILLER}\n\n$$ \\frac{{a}}{{b}} $$\n\nI test `my_name`.\n",
}


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A function that types a query and returns titles and summaries, best first."""
    from playwright.sync_api import sync_playwright

    built = build_small_book(tmp_path_factory.mktemp("search") / "book", PAGES)
    handler = functools.partial(QuietHandler, directory=built)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=flags).new_page()
        wrong = []
        page.on("pageerror", lambda error: wrong.append(error))

        def ask(query):
            page.goto(f"http://127.0.0.1:{server.server_port}/search.html?q={query}")
            page.locator("#search-results .search-summary:not(:empty)").wait_for()
            page.wait_for_load_state("networkidle")
            assert wrong == []
            found = page.locator("#search-results li")
            titles, texts = (
                found.locator("a").all_inner_texts(),
                found.locator("p").all_inner_texts(),
            )
            return dict(zip(titles, texts, strict=True))

        yield ask
    server.shutdown()


def test_a_rare_word_outweighs_a_common_one(search):
    found = search("I pangolin")
    assert next(iter(found)) == "A page"
    assert "Another page" not in found  # it has but the I


def test_the_text_around_a_hit_is_shown_without_tex_and_frame(search):
    text = search("pangolin")["A page"]
    assert "A pangolin of α = KL sleeps." in text
    assert text.startswith("… ")
    assert text.endswith(" …")
    assert len(text) < 300


def test_what_cannot_be_read_as_text_is_left_out(search):
    (text,) = search("my_name").values()
    assert "sentence. … I test my_name." in text
    assert "frac" not in text


def test_a_word_that_occurs_nowhere_does_not_hide_the_others(search):
    assert "A page" in search("pangolin quokka")
    assert search("quokka") == {}
