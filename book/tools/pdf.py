"""Print the built book as one PDF, with the chapters as bookmarks.

usage: python book/tools/pdf.py [FOLDER [OUT]]
FOLDER: that of _toc.yml and _build; OUT: FOLDER/_build/book.pdf
A headless Chromium prints each page as a reader sees it, with every derivation and solution
unfolded.
"""

import functools
import http.server
import io
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pypdf import PdfReader, PdfWriter
from tqdm import tqdm

UNFOLD = """
document.querySelectorAll("details").forEach((box) => { box.open = true; });
document.querySelectorAll(".toggle-hidden").forEach((box) => box.classList.remove("toggle-hidden"));
const published = document.querySelector('link[rel="canonical"]')?.href;
if (published) {
  document.querySelectorAll("a[href]").forEach((link) => {
    if (link.origin === location.origin) link.href = new URL(link.getAttribute("href"), published);
  });
}
"""
LAYOUT = """
.bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-footer, .toggle-button {
  display: none !important;
}
pre { white-space: pre-wrap; }
figure, div.cell_input, div.cell_output, div.highlight, .admonition-title { break-inside: avoid; }
h1, h2, h3 { break-after: avoid; }
"""


def pages(root: Path) -> list[str]:
    """The pages in the order of the table of contents."""

    def files(entry: dict[str, Any]) -> Iterator[str]:
        yield from ([entry["file"]] if "file" in entry else [])
        for kind in ("parts", "chapters", "sections"):
            for inner in entry.get(kind, []):
                yield from files(inner)

    toc = yaml.safe_load((root / "_toc.yml").read_text())
    return [toc["root"], *files(toc)]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def print_page(page: Any, url: str) -> bytes:
    """A page as PDF, its mathematics set."""
    page.goto(url)
    page.wait_for_function(
        "!document.querySelector('.math') || document.querySelector('mjx-container')"
    )
    page.wait_for_load_state("networkidle")
    page.evaluate(UNFOLD)
    page.add_style_tag(content=LAYOUT)
    margin = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
    content: bytes = page.pdf(format="A4", margin=margin, print_background=True, scale=0.8)
    return content


def make(root: Path, out: Path) -> int:
    """Print the book built below root into out; how many sheets it has.

    FileNotFoundError where something is missing.
    """
    html, chromium = root / "_build" / "html", shutil.which("chromium")
    missing = [name for name in pages(root) if not (html / f"{name}.html").is_file()]
    if missing:
        raise FileNotFoundError(f"{html / missing[0]}.html is not built; run make book first")
    if chromium is None:
        raise FileNotFoundError("no chromium; make browser installs it where it may")
    from playwright.sync_api import sync_playwright

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(html))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    writer = PdfWriter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 1400}, color_scheme="light")
        for name in tqdm(pages(root), desc="pages", unit="page"):
            content = print_page(page, f"http://127.0.0.1:{server.server_port}/{name}.html")
            title = page.locator("article h1").first.inner_text().strip(" #\n")
            writer.append(PdfReader(io.BytesIO(content)), outline_item=title)
        browser.close()
    server.shutdown()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".tmp")
    writer.write(partial)
    os.replace(partial, out)
    return len(writer.pages)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "_build" / "book.pdf"
    try:
        print(f"{target}: {make(folder, target)} sheets")
    except FileNotFoundError as error:
        sys.exit(f"make pdf: {error}")
