"""Tables of the book: HTML on a page, aligned text in a terminal."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

DASH = "—"


class Table:
    """Rows of results, shown as HTML in a notebook and as aligned text in a terminal.

    The first column holds the labels of the rows; it and columns of words begin at the left. A
    cell is text, a number, None (shown as a dash) or (estimate, low, high), a value with its 95 %
    interval. Text between two $ is typeset.

    Args:
        rows: dicts with the same keys, the headings.
        best: column -> "min" or "max", the value to mark: bold in HTML, * in text. All values
            that look like the best one are marked.
        digits: column -> decimals of all its numbers. In other columns integers are written as
            they are, and other numbers with 3 significant digits.
        caption: text above the table.

    Raises:
        ValueError: where rows have different keys, or a cell, `best` or `digits` is not as said
            here; it names the row or the column.

    Example:
        >>> rows = [{"model": "VAE", "FID": 31.4}, {"model": "S-IntroVAE", "FID": (25.25, 21, 30)}]
        >>> Table(rows, best={"FID": "min"}, digits={"FID": 1})
        model                        FID
        ----------  --------------------
        VAE                        31.4
        S-IntroVAE  25.2* (21.0 to 30.0)
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        best: Mapping[str, Literal["min", "max"]] | None = None,
        digits: Mapping[str, int] | None = None,
        caption: str | None = None,
    ) -> None:
        if not rows:
            raise ValueError("rows is empty; give one dict a row")
        self.columns = list(rows[0])
        self.rows = [dict(row) for row in rows]
        self.best, self.digits, self.caption = dict(best or {}), dict(digits or {}), caption
        for number, row in enumerate(self.rows):
            if set(row) != set(self.columns):
                found = f"rows[{number}] has the keys {list(row)}"
                raise ValueError(f"{found}, not {self.columns}; write None for a missing value")
        for name, chosen in (("best", self.best), ("digits", self.digits)):
            for column in chosen:
                if column not in self.columns:
                    raise ValueError(f"{name} names {column!r}, which is none of {self.columns}")
        for column, way in self.best.items():
            if way not in ("min", "max"):
                raise ValueError(f"best[{column!r}]={way!r} is not one of 'min', 'max'")
        for column, count in self.digits.items():
            if not isinstance(count, Integral) or count < 0:
                raise ValueError(f"digits[{column!r}]={count!r} is not a whole number, 0 or more")

        for row in self.rows:
            for column, value in row.items():
                self._cell(column, value)

    def _repr_html_(self) -> str:
        """Return the table as HTML; the look of its class is in book/static/book.css."""
        caption = f"<caption>{_typeset(self.caption)}</caption>" if self.caption else ""
        sides = {name: "left" if self._holds_words(name) else "right" for name in self.columns}
        heads = (
            f'<th scope="col" style="text-align: {sides[column]}">{_typeset(column)}</th>'
            for column in self.columns
        )
        lines = [f"<tr>{''.join(heads)}</tr>"]
        best = self._best()
        for number, row in enumerate(self.rows):
            cells = []
            for column in self.columns:
                value, interval = (_typeset(part) for part in self._cell(column, row[column]))
                value = f"<strong>{value}</strong>" if (number, column) in best else value
                value += f" <small>{interval}</small>" if interval else ""
                tag = 'th scope="row"' if column == self.columns[0] else "td"
                cell = f'<{tag} style="text-align: {sides[column]}">{value}</{tag.split()[0]}>'
                cells.append(cell)
            lines.append(f"<tr>{''.join(cells)}</tr>")
        head, body = lines[0], "\n".join(lines[1:])
        # MathJax reads what has the second class
        return (
            f'<table class="asintrovae-table tex2jax_process">{caption}\n'
            f"<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        )

    def __repr__(self) -> str:
        """Return the table as text, its columns aligned."""
        best = self._best()
        columns = []
        for column in self.columns:
            cells = [column]
            for number, row in enumerate(self.rows):
                value, interval = self._cell(column, row[column])
                mark = ("*" if (number, column) in best else " ") if column in self.best else ""
                text = f"{value}{mark} {interval}" if interval else value + mark
                cells.append(text.replace("−", "-"))
            width = max(map(len, cells))
            cells.insert(1, "-" * width)
            left = self._holds_words(column)
            columns.append([cell.ljust(width) if left else cell.rjust(width) for cell in cells])
        lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
        return "\n".join([self.caption, *lines] if self.caption else lines)

    def _holds_words(self, column: str) -> bool:
        """Return whether a column is read: the labels, or cells that all begin with a letter."""
        cells = [row[column] for row in self.rows if row[column] is not None]
        words = bool(cells) and all(isinstance(cell, str) and cell[:1].isalpha() for cell in cells)
        return words or column == self.columns[0]

    def _cell(self, column: str, value: Any) -> tuple[str, str]:
        """Return a value and its interval as text, "" where it has none."""
        if value is None or isinstance(value, str):
            return DASH if value is None else value, ""
        digits = self.digits.get(column)
        try:
            if not isinstance(value, tuple):
                return number_text(value, digits), ""
            estimate, low, high = (number_text(part, digits) for part in value)
        except (TypeError, ValueError):
            wanted = "is not text, a number, None or (estimate, low, high)"
            raise ValueError(f"the cell {value!r} of column {column!r} {wanted}") from None
        return estimate, f"({low} to {high})"

    def _best(self) -> set[tuple[int, str]]:
        """Return row number and column of the best values."""
        marked = set()
        for column, way in self.best.items():
            values = {}
            for number, row in enumerate(self.rows):
                value = row[column][0] if isinstance(row[column], tuple) else row[column]
                if value is not None and not isinstance(value, str) and not math.isnan(value):
                    values[number] = value
            if values:
                best = {"min": min, "max": max}[way](values.values())
                looks = self._cell(column, best)[0]
                same = {n for n, value in values.items() if self._cell(column, value)[0] == looks}
                marked |= {(number, column) for number in same}
        return marked


def number_text(value: Any, digits: int | None) -> str:
    """Return a number as text, with a minus sign instead of a hyphen.

    Args:
        value: a number of Python, NumPy or PyTorch.
        digits: decimals; None: as `Table` says.

    Raises:
        TypeError: where it is no number.
    """
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    if digits is None and isinstance(value, Integral):
        text = str(value)
    elif digits is not None or value == 0 or not math.isfinite(value):
        text = f"{float(value):.{2 if digits is None else digits}f}"
    else:
        rounded = f"{float(value):.2e}"
        power = int(rounded.split("e")[1])
        text = f"{float(value):.{max(0, 2 - power)}f}" if power >= -4 else rounded
    if not re.search(r"[1-9a-z]", text):
        text = text.lstrip("-")
    return text.replace("-", "−")


def _typeset(text: str) -> str:
    """Return text as HTML, with what stands between two $ as a formula."""
    return re.sub(r"\$([^$]+)\$", r"\\(\1\\)", html.escape(text, quote=False))
