"""Quizzes: what is asked, what is refused, and how they answer in a browser."""

import io
import re

import nbformat
import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils
from test_book import NARROW, WIDE, set_theme, violations

pytestmark = pytest.mark.xdist_group("small_book")

QUIZ = """\
# A page

:::{quiz}
Which axis has $\\lambda = 1$?

- [ ] The first

  No. It moves with the data.
- [x] The *second*

  Yes. Its posterior is the prior.

  All of it.
:::
"""


def build(folder, builder="html", notebook=False, text=QUIZ):
    """Build one page; the text of its output, and the warnings."""
    book = folder / "book"
    (book / "src").mkdir(parents=True)
    if notebook:
        cell = nbformat.v4.new_markdown_cell(text)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), book / "page.ipynb")
        (book / "src" / "page.md").write_text(f"---\nheader: of jupytext\n---\n\n{text}")
    else:
        (book / "page.md").write_text(text)
    warnings = io.StringIO()
    options = {
        "extensions": ["myst_nb", "quiz"],
        "myst_enable_extensions": ["colon_fence", "dollarmath"],
        "nb_execution_mode": "off",
        "root_doc": "book/page",
        "exclude_patterns": ["book/src"],
        "html_theme": "basic",
    }
    places = (folder, None, folder / "out", folder / "doctrees")
    with patch_docutils(), docutils_namespace():
        Sphinx(*places, builder, options, None, warnings).build()
    suffix = {"html": "html", "latex": "tex", "text": "txt"}[builder]
    (output,) = (
        [folder / "out" / "book" / f"page.{suffix}"]
        if builder != "latex"
        else (folder / "out").glob("*.tex")
    )
    return output.read_text(), re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue())


@pytest.mark.parametrize("notebook", [False, True])
def test_a_quiz_is_a_group_with_folded_explanations(tmp_path, notebook):
    html, warnings = build(tmp_path, notebook=notebook)
    assert warnings == ""
    assert 'aria-labelledby="quiz-0-question"' in html
    assert 'id="quiz-0-question"' in html
    assert "[x]" not in html
    assert "[ ]" not in html
    options, answers = html.split('<details class="quiz-answers">')
    assert "The first" in options
    assert "It moves with the data" not in options
    assert re.search(r'class="quiz-wrong">\s*<p><strong[^>]*>Wrong.</strong> No. It', answers)
    assert re.search(r'class="quiz-right">\s*<p><strong[^>]*>Right.</strong> Yes. Its', answers)
    assert "<p>All of it.</p>" in answers


@pytest.mark.parametrize("builder", ["latex", "text"])
def test_without_a_browser_all_of_it_is_printed(tmp_path, builder):
    text, warnings = build(tmp_path, builder)
    assert warnings == ""
    wanted = ["Which axis", "The first", "second", "Wrong.", "It moves", "Right.", "Yes. Its"]
    places = [text.index(words) for words in wanted]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("- [x]", "- [ ]", 3, "has 0 right options"),
        ("- [ ]", "- [x]", 3, "has 2 right options"),
        ("- [ ] The", "- The", 6, "option 1 begins neither with [ ] nor with [x]"),
        ("- [x]", "- [X]", 9, "option 2 begins neither"),
        ("\n\n  No. It moves with the data.", "", 6, "option 1 has no explanation"),
        ("Which axis has $\\lambda = 1$?\n\n", "", 3, "has no question"),
        ("- [ ] The first\n\n  No. It moves with the data.\n", "", 3, "has one option"),
        ("  All of it.\n", "All of it.\n", 3, "does not end with a list of options"),
    ],
)
@pytest.mark.parametrize("notebook", [False, True])
def test_a_malformed_quiz_is_an_error_at_its_line(tmp_path, notebook, old, new, line, message):
    assert QUIZ.count(old) == 1
    html, warnings = build(tmp_path, notebook=notebook, text=QUIZ.replace(old, new))
    place = f"src/page.md:{line + 4}" if notebook else f"page.md:{line}"
    assert f"book/{place}: ERROR: quiz {message}" in warnings
    assert "fieldset" not in html


def test_an_empty_quiz_is_malformed(tmp_path):
    _, warnings = build(tmp_path, text="# A page\n\n:::{quiz}\n:::\n")
    assert "page.md:3: ERROR: quiz does not end with a list of options" in warnings


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_quiz_answers_in_a_page_opened_as_a_file(small_book, browser, theme):
    page = browser.new_page(viewport=NARROW if theme == "dark" else WIDE)
    page.goto((small_book / "book" / "01_small.html").as_uri())
    page.evaluate("MathJax.startup.promise")
    set_theme(page, theme)
    quiz = page.locator("fieldset.quiz")
    first, second = quiz.get_by_role("button").all()
    shown = quiz.locator("[aria-live=polite]")
    assert not quiz.get_by_text("It moves with the data").is_visible()
    first.focus()
    page.keyboard.press("Space")
    assert shown.inner_text() == "Wrong. It moves with the data."
    assert first.inner_text().split()[-1] == "wrong"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert shown.inner_text().startswith("Right. Its posterior equals the prior")
    assert shown.locator("mjx-container").count() == 1
    assert [b.get_attribute("aria-pressed") for b in (first, second)] == ["false", "true"]
    assert second.inner_text().split()[-1] == "right"
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    page.close()


def test_without_javascript_options_and_explanations_are_there(small_book, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((small_book / "book" / "01_small.html").as_uri())
    quiz = page.locator("fieldset.quiz")
    assert quiz.get_by_text("The first").is_visible()
    assert not quiz.get_by_text("It moves with the data").is_visible()
    quiz.locator("summary").click()
    assert quiz.get_by_text("It moves with the data").is_visible()
    page.context.close()
