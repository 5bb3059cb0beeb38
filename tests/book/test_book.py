"""The built book: it builds without a warning, and a browser finds nothing wrong with it, with the
network cut."""

import functools
import http.server
import io
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image

from asintrovae.figures.lab import SETTINGS

pytestmark = pytest.mark.xdist_group("book")  # one worker builds the book once
CHROMIUM = shutil.which("chromium")
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
FILES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
PAGES = [file.removeprefix("book/") for file in FILES]


@pytest.fixture(scope="module")
def built_book(tmp_path_factory, tiny_runs):
    """The book as `make book` builds it, with training runs of a dozen iterations."""
    root = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("runs"))
    shutil.copytree(tiny_runs, root / "book" / "runs")
    shutil.copytree(
        ROOT / "data" / "runs",
        root / "data" / "runs",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks")
    command = [
        str(Path(sys.executable).with_name("jupyter-book")),
        "build",
        str(root),
        "-W",
        "-n",
        "--keep-going",
        "-q",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return root / "_build" / "html"


def test_status_page_lists_the_runs_of_this_build_and_the_recorded_ones(built_book):
    html = (built_book / "book" / "appendix" / "status.html").read_text().replace("<wbr>", "")
    for words in (
        "runs/toy",
        "runs/images",
        "runs/as_distance/mean",
        "this build",
        "recorded",
        "all together",
    ):
        assert words in html


def test_every_page_is_built_and_asks_for_nothing_from_elsewhere(built_book):
    for page in PAGES:
        html = (built_book / "book" / f"{page}.html").read_text()
        assert 'src="http' not in html
        assert '<link rel="stylesheet" href="http' not in html
    for sheet in built_book.rglob("*.css"):
        assert (
            re.findall(r"url\((?!['\"]?data:)[^)]*(?:http|\.woff|\.ttf)[^)]*\)", sheet.read_text())
            == []
        ), sheet


def test_every_link_leads_to_a_file_and_an_anchor_of_the_book(built_book):
    html = {
        page: page.read_text() for page in built_book.rglob("*.html") if "_static" not in page.parts
    }
    anchors = {page: set(re.findall(r'\sid="([^"]+)"', text)) for page, text in html.items()}
    followed, broken = 0, []
    for page, text in html.items():
        for link in re.findall(r'<[^>]*?\s(?:href|src)="([^"]*)"', text):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            followed += bool(url.fragment)
            preset = re.fullmatch(r"lab=preset:([\w-]+)", unquote(url.fragment))
            if preset and target.name == "lab.html":
                assert preset[1] in SETTINGS["presets"], link  # the lab reads it
                continue
            if not target.is_file() or (
                url.fragment and unquote(url.fragment) not in anchors.get(target, ())
            ):
                broken.append(f"{page.relative_to(built_book)}: {link}")
    assert broken == []
    assert followed > 1000  # headings, equations, figures, citations


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def browser_page(built_book):
    """A page of headless Chromium that reaches a local server and nothing else, and the list of
    what went wrong on it."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: `make browser` installs it where it may")
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietHandler, directory=built_book)
    )
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    base, wrong = f"http://127.0.0.1:{server.server_port}/", []
    own = (base, built_book.as_uri(), "data:", "blob:")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    flags.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.on(
            "console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None
        )
        page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
        page.on(
            "response", lambda r: wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None
        )
        # "aborted" is what the browser gives up because the page is left
        page.on(
            "requestfailed",
            lambda r: (
                None if "ABORTED" in (r.failure or "") else wrong.append(f"{r.failure}: {r.url}")
            ),
        )
        page.on(
            "request",
            lambda r: None if r.url.startswith(own) else wrong.append(f"external: {r.url}"),
        )
        yield page, base, wrong
        browser.close()
    server.shutdown()


WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}

# Folded parts are read too. axe measures every element: one of each kind of token is enough.
UNFOLD = """() => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  for (const fold of document.querySelectorAll(".toggle-hidden"))
    fold.classList.remove("toggle-hidden");
  const seen = new Set();
  for (const token of document.querySelectorAll("div.highlight pre span")) {
    if (seen.has(token.className)) token.replaceWith(...token.childNodes);
    seen.add(token.className);
  }
}"""

# The contrast of every element would take seconds: three of each look are enough in each part of a
# page; a look is font, colour and all that is painted or faded behind. The paths of formulas, which
# axe would walk, are taken out; their size stays.
LOOKS = """() => {
  for (const drawn of document.querySelectorAll("mjx-container > svg")) drawn.replaceChildren();
  const behind = new Map(), seen = new Map(), parts = [null];
  for (const node of document.querySelectorAll("body, body *:not(mjx-container *)")) {
    const style = getComputedStyle(node);
    const painted = [style.backgroundColor, style.backgroundImage, style.opacity, style.filter];
    const nothing = painted.join() === "rgba(0, 0, 0, 0),none,1,none";
    behind.set(node, (behind.get(node.parentElement) ?? "") + (nothing ? "" : painted.join()));
    const says = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()[1]);
    const box = node.getBoundingClientRect();
    const shown = says && node.checkVisibility({ visibilityProperty: true }) && box.width > 1;
    const font = [style.color, style.fontSize, style.fontWeight, style.textShadow];
    const part = node.closest("header, nav, aside, article, footer, dialog, [class*=sidebar]");
    if (!parts.includes(part)) parts.push(part);
    const look = [...font, parts.indexOf(part), behind.get(node)].join("|");
    if (shown) seen.set(look, 1 + (seen.get(look) ?? 0));
    node.toggleAttribute("data-look", shown && seen.get(look) <= 3);
  }
}"""

# Formulas that no screen reader could read: MathJax puts MathML beside what it draws.
SILENT = """all => all.filter(m => !m.querySelector("mjx-container > mjx-assistive-mml > math"))
  .map(m => m.textContent)"""

# What ends beyond an edge that cannot be scrolled, and equations that overlap their numbers.
CUT = """all => all.filter(node => {
  const box = node.getBoundingClientRect();
  for (let around = node; (around = around.parentElement) && box.width; ) {
    const overflow = getComputedStyle(around).overflowX;
    if (overflow === "auto" || overflow === "scroll") return false;
    if (overflow !== "visible" && box.right > around.getBoundingClientRect().right + 1) return true;
  }
  return false;
}).map(node => node.outerHTML.slice(0, 120))"""
CROWDED = """all => all.filter(number => {
  const formula = number.parentElement.querySelector("mjx-container");
  const [a, b] = [number, formula].map(node => node.getBoundingClientRect());
  const beside = a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const overlap = a.left < b.right - 1 && b.left < a.right - 1;
  return beside && (formula.scrollWidth > formula.clientWidth + 1 || overlap);
}).map(number => number.textContent)"""

# Where the focus is, and whether anything shows it.
FOCUS = """async () => {
  const node = document.activeElement;
  await Promise.all(node.getAnimations().map(fading => fading.finished));
  const style = getComputedStyle(node);
  const visible = style.outlineStyle !== "none" || style.boxShadow !== "none";
  return { visible, inside: Boolean(node.closest("main")), html: node.outerHTML.slice(0, 200) };
}"""


def open_page(page, url):
    """Go there in a wide window and wait until all is loaded, formulas are typeset and fonts are
    there."""
    page.set_viewport_size(WIDE)
    page.goto(url)
    page.evaluate("window.MathJax && MathJax.startup.promise")
    page.evaluate("document.fonts.ready.then(() => null)")


def set_theme(page, theme):
    page.evaluate(
        "theme => Object.assign(document.documentElement.dataset, { theme, mode: theme })", theme
    )
    page.evaluate("Promise.all(document.getAnimations().map(fading => fading.finished))")


AXE = """options => {
  const contrast = { id: "color-contrast", selector: "[data-look]" };
  axe.configure({ rules: [contrast] });
  return axe.run({ exclude: [["mjx-container"]] }, options);
}"""


def violations(page, **options):
    """What axe-core finds, formulas aside, but for what it calls minor."""
    from axe_playwright_python.sync_playwright import Axe

    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(Axe().axe_script)
    page.evaluate(LOOKS)
    options = {"resultTypes": ["violations"], "preload": False, **options}
    found = page.evaluate(AXE, options)["violations"]
    nodes = [(rule, node) for rule in found if rule["impact"] != "minor" for node in rule["nodes"]]
    return [f"{rule['id']}: {node['html'][:120]} {node['failureSummary']}" for rule, node in nodes]


def luminance(rgb):
    """Relative luminance of sRGB colours of 0 to 255, as WCAG 2 defines it."""
    share = np.asarray(rgb) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ (
        0.2126,
        0.7152,
        0.0722,
    )


IN_THE_DARK = ["color-contrast", "scrollable-region-focusable", "target-size"]
OF_EACH_KIND = {"index", "found", "05_as_distance", "runs/images", "notation", "appendix/status"}


def violations_on_a_telephone_in_the_dark(page):
    page.set_viewport_size(NARROW)
    set_theme(page, "dark")
    return violations(page, runOnly=IN_THE_DARK)


@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(browser_page, name):
    """One page of each kind also in the dark."""
    page, base, wrong = browser_page
    wrong.clear()
    open_page(page, f"{base}book/{name}.html")
    assert page.locator("mjx-merror").count() == 0
    assert page.locator("article .math").evaluate_all(SILENT) == []
    figures = page.locator("article img")
    for index in range(figures.count()):
        assert figures.nth(index).evaluate(
            "image => image.complete && image.naturalWidth > 0 && image.alt.length > 20"
        )
    page.evaluate(UNFOLD)
    set_theme(page, "light")
    assert violations(page) == []
    page.set_viewport_size(NARROW)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert page.locator("article :is(mjx-container > svg, img, pre, table)").evaluate_all(CUT) == []
    assert page.locator("article div.math > .eqno").evaluate_all(CROWDED) == []
    if name in OF_EACH_KIND:
        assert violations_on_a_telephone_in_the_dark(page) == []
    assert wrong == []


@pytest.mark.weekly
@pytest.mark.parametrize("name", [page for page in PAGES if page not in OF_EACH_KIND])
def test_page_on_a_telephone_in_the_dark(browser_page, name):
    """All pages have the style sheet of those that are looked at every time."""
    page, base, wrong = browser_page
    wrong.clear()
    open_page(page, f"{base}book/{name}.html")
    page.evaluate(UNFOLD)
    assert violations_on_a_telephone_in_the_dark(page) == []
    assert wrong == []


def test_pages_opened_as_files_are_complete(built_book, browser_page):
    page, _, wrong = browser_page
    wrong.clear()
    for name in ("index", "found", "notation", "05_as_distance", "06_as_introvae", "runs/toy"):
        open_page(page, (built_book / "book" / f"{name}.html").as_uri())
        assert page.locator("article .math").evaluate_all(SILENT) == []
        fonts = page.evaluate("[...document.fonts].map(font => font.status)")
        assert "loaded" in fonts
        assert "error" not in fonts
    assert wrong == []


@pytest.mark.parametrize("as_file", [False, True])
def test_search_finds_a_term(built_book, browser_page, as_file):
    page, base, wrong = browser_page
    wrong.clear()
    open_page(
        page, (built_book / "book" / "index.html").as_uri() if as_file else f"{base}book/index.html"
    )
    page.keyboard.press("Control+k")
    page.keyboard.type("bandwidth")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    page.get_by_text("Search finished").wait_for()
    for path in page.locator("#search-results li a").evaluate_all(
        "links => links.map(link => link.pathname)"
    ):
        assert "bandwidth" in (built_book / path[path.index("book/") :]).read_text().lower()
    page.wait_for_load_state("networkidle")
    page.locator("#search-results li a").first.click()
    page.wait_for_selector("article h1")
    page.wait_for_load_state("networkidle")
    assert wrong == []


def test_the_theme_button_leaves_figures_legible(browser_page):
    page, base, wrong = browser_page
    wrong.clear()
    open_page(page, f"{base}book/05_as_distance.html")
    button = page.locator("button.theme-switch-button:visible")
    for _ in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        button.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert (
        luminance(
            page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
            )
        )
        < 0.02
    )
    figure = page.locator("article figure img").first
    pixels = luminance(np.asarray(Image.open(io.BytesIO(figure.screenshot())).convert("RGB")))
    card, ink = np.median(pixels), np.quantile(pixels, 0.005)
    assert pixels[8:-8, 8].min() == pytest.approx(
        card, abs=0.02
    )  # the card reaches around the figure
    assert (card + 0.05) / (ink + 0.05) > 7
    page.reload(wait_until="networkidle")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # it is remembered
    page.evaluate("localStorage.clear()")
    assert wrong == []


def test_a_page_can_be_walked_by_keyboard(browser_page):
    page, base, wrong = browser_page
    wrong.clear()
    open_page(page, f"{base}book/01_vae.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Skip to main content"
    page.wait_for_function(
        "document.querySelector('#pst-skip-link a').getBoundingClientRect().y >= 0"
    )  # it slides in
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")
    for _ in range(30):
        page.keyboard.press("Tab")
        shown = page.evaluate(FOCUS)
        assert shown["visible"], shown["html"]
    assert shown["inside"]
    assert wrong == []


# How far things moved on the page since it was opened, by the browser's own measure.
SHIFTS = """() => new Promise(done => {
  let sum = 0;
  new PerformanceObserver(list => {
    for (const shift of list.getEntries()) sum += shift.hadRecentInput ? 0 : shift.value;
  }).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => done(sum), 500);
})"""

WIDGETS = {
    "margin-game": "02_introvae",
    "kernel-explorer": "05_as_distance",
    "annealing-explorer": "06_as_introvae",
}
WIDGETS["training-player"] = "06_as_introvae"


@pytest.mark.parametrize("as_file", [False, True])
def test_the_picture_of_the_home_page_moves_by_itself_and_nothing_else_does(
    built_book, browser_page, as_file
):
    """Its place is kept before it is drawn: what is read stays where it is."""
    page, base, wrong = browser_page
    wrong.clear()
    for window in (WIDE, NARROW):
        page.set_viewport_size(window)
        page.goto(
            (built_book / "book" / "index.html").as_uri() if as_file else f"{base}book/index.html"
        )
        page.wait_for_function("document.querySelector('.training-player input')?.value > 2")
        shifts = page.evaluate(SHIFTS)
        assert shifts < 0.1  # good, by the limits of Core Web Vitals
        page.locator(".training-player").get_by_role("button", name="Pause").click()
    assert as_file or wrong == []


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
