"""The built book: it builds without a warning, and a browser finds nothing wrong with it, with the network cut."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import papermill
import pytest
import yaml
from conftest import ROOT
from own_sockets import own_sockets

pytestmark = pytest.mark.xdist_group("book")  # one worker builds the book once
CHROMIUM = shutil.which("chromium")
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
FILES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
PAGES = [file.removeprefix("book/") for file in FILES]


@pytest.fixture(scope="module")
def built_book(tmp_path_factory):
    """The book as `make book` builds it, with training runs of a dozen iterations."""
    root = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("runs"))
    (root / "book" / "runs").mkdir()
    shutil.copytree(ROOT / "data" / "runs", root / "data" / "runs", ignore=shutil.ignore_patterns("*.safetensors"))
    tiny = {"iterations": 12, "warmup": 2, "batch_size": 16, "widths": [4], "evaluation_samples": 64, "log_every": 4}
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in ("toy", "images"):
        out = root / "book" / "runs" / f"{name}.ipynb"
        template = ROOT / "book" / "training" / f"{name}.ipynb"
        parameters = {**tiny, "run_dir": str(out.with_suffix(""))}
        papermill.execute_notebook(template, out, parameters, progress_bar=False, config=own_sockets())
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(root), "-W", "-n", "--keep-going", "-q"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return root / "_build" / "html"


def test_status_page_lists_the_runs_of_this_build_and_the_recorded_ones(built_book):
    html = (built_book / "book" / "appendix" / "status.html").read_text()
    for words in ("runs/toy", "runs/images", "runs/as_distance/mean", "this build", "recorded", "all together"):
        assert words in html


def test_every_page_is_built_and_asks_for_nothing_from_elsewhere(built_book):
    for page in PAGES:
        html = (built_book / "book" / f"{page}.html").read_text()
        assert 'src="http' not in html
        assert '<link rel="stylesheet" href="http' not in html


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def browser_page(built_book):
    """A page of headless Chromium on a local server, and the list of what went wrong on it."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: `make browser` installs it where it may")
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=built_book))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base, wrong = f"http://127.0.0.1:{server.server_port}/", []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
        page.on("response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        page.on("request", lambda r: None if r.url.startswith((base, "data:", "blob:")) else wrong.append(f"external: {r.url}"))
        yield page, base, wrong
        browser.close()
    server.shutdown()


@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(built_book, browser_page, name):
    page, base, wrong = browser_page
    wrong.clear()
    page.goto(f"{base}book/{name}.html")
    if 'class="math' in (built_book / "book" / f"{name}.html").read_text():
        page.wait_for_selector("article mjx-container", timeout=20_000)
    page.wait_for_load_state("networkidle")
    assert page.locator("mjx-merror").count() == 0
    assert wrong == []
    figures = page.locator("article img")
    for index in range(figures.count()):
        assert figures.nth(index).evaluate("image => image.complete && image.naturalWidth > 0 && image.alt.length > 20")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    page.set_viewport_size({"width": 1280, "height": 900})


WIDGETS = {"margin-game": "02_introvae", "kernel-explorer": "05_as_distance", "annealing-explorer": "06_as_introvae"}
WIDGETS["training-player"] = "06_as_introvae"


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("widget", WIDGETS)
def test_widget_stands_in_its_page_and_moves(built_book, browser_page, widget, as_file):
    """On a server, and in a page opened as a file; what it computes is tested in test_widgets."""
    page, base, wrong = browser_page
    wrong.clear()
    path = f"book/{WIDGETS[widget]}.html"
    page.goto((built_book / path).as_uri() if as_file else base + path)
    page.wait_for_selector(f"figure .{widget}")
    table = page.locator(f".{widget} tbody")
    before = table.inner_text()
    page.locator(f".{widget} input[type=range]").first.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    assert table.inner_text() != before
    assert as_file or wrong == []
    wrong.clear()  # icon fonts may not be loaded from files
