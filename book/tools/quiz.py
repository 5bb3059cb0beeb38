"""Sphinx extension: questions with options, answered in the page.

    :::{quiz}
    Which axis of the latent space has collapsed?

    - [ ] The first

      No. Its posterior mean has a variance of 0.8 over the data.
    - [x] The second

      Yes. Every posterior equals the prior.
    :::

All that comes before the list is the question. The first paragraph of an item is the option, the
rest of the item is its explanation. Exactly one option is marked as right. A page without
JavaScript, a printed page and every other output show the options and then all explanations;
`book/static/quiz.js` makes buttons of the options.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
MARKS = {"[ ] ": False, "[x] ": True}


class Quiz(nodes.General, nodes.Element):
    """A question, its options and their explanations."""


class Question(nodes.Part, nodes.Element):
    """What comes before the options."""


class Answers(nodes.Part, nodes.Element):
    """The explanations of all options, folded in a page."""


class MalformedQuizError(ValueError):
    """A quiz that cannot be asked.

    Args:
        line: offset of the fault from the first line of the directive.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


def take_mark(item: nodes.list_item) -> bool | None:
    """Remove the mark from an item and return whether it says right; None where there is none."""
    text = next(item.findall(nodes.Text), None)
    for mark, right in MARKS.items():
        if text is not None and text.startswith(mark):
            text.parent.replace(text, nodes.Text(text.removeprefix(mark)))
            return right
    return None


def parts(parsed: nodes.Element, first_line: int) -> tuple[list[nodes.Node], list[bool]]:
    """Check a parsed quiz.

    Args:
        parsed: the content of the directive; its marks are removed.
        first_line: line of the directive.

    Returns:
        the question, and for each option whether it is right.

    Raises:
        MalformedQuizError: where it cannot be asked.
    """
    *question, options = parsed.children or [nodes.paragraph()]
    if not isinstance(options, nodes.bullet_list):
        raise MalformedQuizError("does not end with a list of options, - [ ] or - [x]")
    if not question:
        raise MalformedQuizError("has no question before its options")
    right = []
    for number, item in enumerate(options.children, 1):
        line = (item.line or first_line) - first_line
        mark = take_mark(item)
        if mark is None:
            raise MalformedQuizError(f"option {number} begins neither with [ ] nor with [x]", line)
        if len(item.children) < 2:
            raise MalformedQuizError(
                f"option {number} has no explanation: add an indented paragraph below it", line
            )
        right.append(mark)
    if len(right) < 2:
        raise MalformedQuizError("has one option; two or more are needed")
    if sum(right) != 1:
        raise MalformedQuizError(f"has {sum(right)} right options, marked [x]; one is needed")
    return question, right


class QuizDirective(SphinxDirective):
    """Parse a quiz; report a malformed one as an error with the file and line people edit."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the quiz, or nothing where it is malformed."""
        parsed = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, parsed)
        try:
            question, right = parts(parsed, self.lineno)
        except MalformedQuizError as error:
            path, line = self.source()
            logger.error(
                "quiz %s", error, location=f"{path}:{line + error.line}", type="quiz", subtype=""
            )
            return []
        return [self.quiz(question, parsed.children[-1], right)]

    def quiz(
        self, question: list[nodes.Node], options: nodes.Element, right: list[bool]
    ) -> nodes.Node:
        """Return the nodes of a quiz, its options lettered."""
        name = f"quiz-{self.env.new_serialno('quiz')}"
        texts, explanations = (
            nodes.enumerated_list(enumtype="upperalpha", prefix="", suffix=".", classes=[kind])
            for kind in ("quiz-options", "quiz-explanations")
        )
        for item, is_right in zip(options.children, right, strict=True):
            option, *explanation = item.children
            texts += nodes.list_item("", option)
            said = nodes.strong("", "Right." if is_right else "Wrong.", classes=["quiz-verdict"])
            if isinstance(explanation[0], nodes.paragraph):
                explanation[0][:0] = [said, nodes.Text(" ")]
            else:
                explanation.insert(0, nodes.paragraph("", "", said))
            classes = ["quiz-right" if is_right else "quiz-wrong"]
            explanations += nodes.list_item("", *explanation, classes=classes)
        asked = Question("", *question, ids=[f"{name}-question"])
        node = Quiz("", asked, texts, Answers("", explanations), ids=[name])
        self.set_source_info(node)
        return node

    def source(self) -> tuple[Path, int]:
        """Return the file that people edit and the line of the directive in it.

        A notebook has no lines of its own: its quiz is looked for in its MyST pair in book/src.
        """
        page, book = Path(self.env.doc2path(self.env.docname)), Path(self.env.srcdir) / "book"
        pair = page
        if page.suffix == ".ipynb":
            pair = (book / "src" / page.relative_to(book)).with_suffix(".md")
        lines = pair.read_text().splitlines() if pair.suffix == ".md" and pair.exists() else []
        content = [line.rstrip() for line in self.content]
        for number in range(len(lines)):
            here = [line.rstrip() for line in lines[number + 1 : number + 1 + len(content)]]
            if "{quiz}" in lines[number] and here == content:
                return pair, number + 1
        return page, self.lineno


def visit_quiz(self: Any, node: Quiz) -> None:
    """Open the group of a question and its options."""
    question = node.next_node(Question)
    self.body.append(
        self.starttag(node, "fieldset", CLASS="quiz", **{"aria-labelledby": question["ids"][0]})
    )


def visit_question(self: Any, node: Question) -> None:
    """Open the question, which names the group."""
    self.body.append(self.starttag(node, "div", CLASS="quiz-question"))


def visit_answers(self: Any, node: Answers) -> None:
    """Open the folded explanations."""
    self.body.append('<details class="quiz-answers"><summary>Answers</summary>\n')


def closing(tag: str) -> Any:
    """Return a visitor that closes an element."""

    def depart(self: Any, node: nodes.Node) -> None:
        self.body.append(f"</{tag}>\n")

    return depart


def as_it_is(self: Any, node: nodes.Node) -> None:
    """Add nothing around the children."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    plain = {name: (as_it_is, as_it_is) for name in ("latex", "text", "man", "texinfo")}
    app.add_node(Quiz, html=(visit_quiz, closing("fieldset")), **plain)
    app.add_node(Question, html=(visit_question, closing("div")), **plain)
    app.add_node(Answers, html=(visit_answers, closing("details")), **plain)
    app.add_directive("quiz", QuizDirective)
    app.add_js_file("quiz.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
