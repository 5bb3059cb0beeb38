"""Begin a chapter: its text in the mould of the others, its notebook, its tests, its place in the
table of contents.

usage: python book/tools/new_chapter.py 13_title
What stands in it runs and passes its tests. Replace it part by part; `make check CHAPTER=13_title`
says what is missing.
"""

import re
import sys
from pathlib import Path

from execute import ROOT, take_over_text

NAME = re.compile(r"(\d\d)_[a-z][a-z0-9_]*")
ENTRY = re.compile(r"(?m)^( +- file: book/)(\d\d)_\w+\n")

TEXT = '''\
# {title}

*Runs in under 60 seconds on two CPU cores, no GPU, no download.*

{badge}

TODO: the question of this chapter and its answer in three sentences, then a picture that poses it.

:::{{admonition}} In this chapter
After this chapter you can

- TODO: say what the divergence of a posterior from the prior costs;
- TODO: compute it for a batch, in nats;
- TODO: tell where it is zero.

You need PyTorch and the density of a Gaussian. The [notation](notation) page lists every symbol.
:::

```{{code-cell}} ipython3
:tags: [setup, nbval-ignore-output]

{setup}
```

## The idea

TODO: the idea in words, then one figure of where we are going. Every figure has a caption and a
text alternative.

```{{code-cell}} ipython3
---
mystnb:
  figure:
    caption: TODO, what is drawn and what to see in it. The divergence of a posterior of variance
      1 over its mean.
    name: fig-{label}-idea
  image:
    alt: TODO, the same for someone who cannot see it. A parabola that touches zero at the origin.
---
import matplotlib.pyplot as plt

axis = torch.linspace(-3, 3, 121)
figure, ax = plt.subplots(figsize=(4.2, 2.6))
_ = ax.plot(axis, axis**2 / 2)
_ = ax.set(xlabel="$\\\\mu$", ylabel="KL in nats")
```

## The equation

TODO: every equation has a label, `(eq-{label}-...)`, and a row on the notation page; those that the
package computes have a test in `tests/theory/test_equations.py` and their label among the tags of
the cell that compares them with the package.

$$
\\mathrm{{KL}} = \\tfrac12 \\sum_d \\bigl(\\mu_d^2 + \\lambda_d - \\log \\lambda_d - 1\\bigr)
$$

```{{code-cell}} ipython3
generator = torch.Generator().manual_seed({number})
B, n = 64, 2
mu, logvar = torch.randn(2, B, n, generator=generator)  # (B, n) each


def divergence(mu, logvar):
    """(B, n), (B, n) -> (B,), in nats."""
    return 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(-1)
```

```{{code-cell}} ipython3
from asintrovae import Gaussian, kl_to_standard_normal

package = kl_to_standard_normal(mu, logvar)
by_hand = divergence(mu, logvar)
torch.testing.assert_close(by_hand, package)
print(f"{{by_hand[0]:.4f}} nats by hand, {{package[0]:.4f}} by the package")
```

## The experiment

TODO: at most a minute on two cores; print what holds on every machine.

```{{code-cell}} ipython3
import math

q = Gaussian(mu, logvar)
z = q.sample(torch.randn(2000, B, n, generator=generator))  # (2000, B, n)
prior = Gaussian(torch.zeros(n), torch.zeros(n))
estimate = (q.log_prob(z) - prior.log_prob(z)).mean(0)
furthest = (estimate - package).abs().max()
assert furthest < 0.5
print(f"Monte Carlo is within {{math.ceil(furthest)}} nat of the closed form")
```

:::{{quiz}}
TODO: where is the divergence zero?

- [ ] TODO: where the posterior has no variance

  There it is infinite.
- [x] TODO: where the posterior equals the prior

  Mean 0 and variance 1 on every axis.
:::

:::{{quiz}}
TODO: a second question?

- [ ] TODO: a wrong answer

  TODO: why it is wrong.
- [x] TODO: the right answer

  TODO: why it is right.
:::

:::{{admonition}} Departs from the paper
:class: important

- **TODO.** What is done otherwise and why, with the test that holds the chapter to it. Test:
  `test_{label_}_departs_where_it_says`.
:::

## What to remember

- TODO: three sentences
- TODO: that add something
- TODO: to the text above.

## Exercises
{exercises}
## Further reading

TODO: {{cite:t}}`kingma2014`, and what to look for in it.
'''

EXERCISE = """
:::{{exercise}} TODO, exercise {count}
:label: ex-{label}-{count}
TODO: a question whose answer a cell can check.
:::

:::{{solution-start}} ex-{label}-{count}
:class: dropdown
:::

TODO: the answer, in words.

```{{code-cell}} ipython3
doubled = divergence({count} * mu, torch.zeros_like(mu)) / {count}**2
torch.testing.assert_close(doubled, divergence(mu, 0 * mu))
print(f"{{doubled[0]:.4f}} nats")
```

:::{{solution-end}}
:::
"""

TEST = '''\
"""Claims of the chapter {name} that no other test holds."""

import torch

from asintrovae import kl_to_standard_normal


def test_{label_}_departs_where_it_says(generator):
    """TODO: what the box of the chapter says, by other means than the chapter's."""
    mu = torch.randn(5, 3, generator=generator)
    kl = kl_to_standard_normal(mu, torch.zeros(5, 3))
    torch.testing.assert_close(kl, mu.square().sum(-1) / 2)
'''


def header_and_setup(text: str) -> tuple[str, str]:
    """What all chapters share, from one of them: jupytext's header, and the set-up cell."""
    setup = re.search(r":tags: \[setup[^\]]*\]\n\n(.*?)\n```", text, re.DOTALL)
    assert setup is not None
    return text[: text.index("\n---\n", 4) + 5], setup[1]


def chapter(name: str, sibling: Path) -> str:
    """The text of a new chapter. sibling: a chapter that there is."""
    text = sibling.read_text()
    header, setup = header_and_setup(text)
    (badge,) = re.findall(r"(?m)^\[!\[.*colab.*$", text)
    label = name[3:].replace("_", "-")
    names = {
        "title": name[3:].replace("_", " ").capitalize(),
        "label": label,
        "label_": name[3:],
        "number": int(name[:2]),
    }
    exercises = "".join(EXERCISE.format(count=count, **names) for count in (1, 2, 3))
    body = TEXT.format(
        badge=badge.replace(sibling.stem, name), setup=setup, exercises=exercises, **names
    )
    return header + "\n" + body.replace("\\\\", "\\")


def with_entry(toc: str, name: str) -> str:
    """The table of contents with the chapter after the last one of a lower number."""
    before = [match for match in ENTRY.finditer(toc) if match[2] < name[:2]]
    if not before:
        raise ValueError(
            f"NAME={name!r}: _toc.yml has no chapter of a lower number to put it after"
        )
    last = before[-1]
    return f"{toc[: last.end()]}{last[1]}{name}\n{toc[last.end() :]}"


def begin(name: str, root: Path = ROOT) -> list[Path]:
    """Write the files of a new chapter; their paths.

    ValueError for a bad name; nothing that exists is overwritten.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"NAME={name!r} is not two digits, an underscore and lower-case words, such as 13_title"
        )
    book = root / "book"
    taken = [
        *book.glob(f"src/{match[1]}_*.md"),
        *book.glob(f"{match[1]}_*.ipynb"),
        *root.glob(f"tests/book/test_chapter_{match[1]}.py"),
    ]
    if taken:
        raise ValueError(
            f"NAME={name!r}: {taken[0].relative_to(root)} is there already; take another number"
        )
    text, toc = (
        chapter(name, sorted(book.glob("src/[0-9]*.md"))[-1]),
        with_entry((root / "_toc.yml").read_text(), name),
    )
    names = {"name": name, "label_": name[3:]}
    written = {
        book / "src" / f"{name}.md": text,
        root / "tests" / "book" / f"test_chapter_{match[1]}.py": TEST.format(**names),
        root / "_toc.yml": toc,
    }
    for path, content in written.items():
        path.write_text(content)
    take_over_text(book / f"{name}.ipynb")
    return [*written, book / f"{name}.ipynb"]


if __name__ == "__main__":
    try:
        (wanted,) = sys.argv[1:] or [""]
        for path in begin(wanted):
            print(path.relative_to(ROOT))
    except ValueError as error:
        sys.exit(f"make new-chapter: {error}")
    print(f"Next: edit book/src/{wanted}.md, then make check CHAPTER={wanted}")
