"""Tables of a page: HTML in a notebook, plain text elsewhere."""

import html
from collections.abc import Mapping, Sequence
from typing import Any


class Table:
    """A table of rows that share their columns.

    Args:
        rows: column -> cell; a cell that is a tuple is an estimate with the ends of its interval.
        best: column -> "min" or "max", whose best cell is marked.
        digits: of numbers, three by default.
        caption: above the table.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        best: Mapping[str, str] | None = None,
        digits: int | None = None,
        caption: str | None = None,
    ) -> None:
        self.rows, self.best, self.digits, self.caption = rows, best, digits or 3, caption

    def _text(self, cell: Any) -> str:
        """Return a cell as text."""
        if isinstance(cell, tuple):
            estimate, low, high = (f"{number:.{self.digits}g}" for number in cell)
            return f"{estimate} ({low} to {high})"
        return f"{cell:.{self.digits}g}" if isinstance(cell, float) else str(cell)

    def __repr__(self) -> str:
        lines = [list(self.rows[0]), *([self._text(c) for c in r.values()] for r in self.rows)]
        return "\n".join("  ".join(line) for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.rows[0])
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(self._text(c))}</td>' for c in row.values())}</tr>"
            for row in self.rows
        )
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f'<table class="table">{caption}<tr>{head}</tr>{body}</table>'
