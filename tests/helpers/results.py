"""What the tests of chapters on recorded results share."""

import json

import numpy as np
from conftest import ROOT


def printed(chapter: str, words: str) -> str:
    """The output of the chapter's cell that prints these words."""
    cells = json.loads((ROOT / "book" / f"{chapter}.ipynb").read_text())["cells"]
    texts = [
        "".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", [])
    ]
    (text,) = [text for text in texts if words in text]
    return text


def judged(d: np.ndarray) -> str:
    """The verdict on a claim that the differences d, one for each seed, are positive; the rule of
    the chapters, by numpy."""
    clear = len(d) > 1 and abs(d.mean()) > 2 * d.std(ddof=1)
    return (
        "held"
        if clear and (d > 0).all()
        else "did not hold"
        if clear and (d < 0).all()
        else "undecided"
    )
