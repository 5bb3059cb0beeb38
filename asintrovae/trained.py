"""Trained models that travel with the package, each by its name and with its card."""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from asintrovae.build import build_model
from asintrovae.config import POINTS, ParameterError, RunConfig, short, with_defaults
from asintrovae.data import example_shape
from asintrovae.figures.tables import Table, number_text
from asintrovae.files import embedded
from asintrovae.theory.networks import GAN, Autoencoder

MEASURES = {
    "protocol_kl": "KL divergence of the tables",
    "protocol_jsd": "JSD of the tables",
    "outside": "share of samples outside the histogram",
    "modes_found": "modes found",
    "frechet_mnist_classifier": "Fréchet distance of digit features",
    "precision_mnist_classifier": "precision of digit features",
    "recall_mnist_classifier": "recall of digit features",
    "psnr": "PSNR of reconstructions, dB",
    "ssim": "SSIM of reconstructions",
    "active_units": "active latent axes",
}
"""Measures of a card by their names in a record. Those of points and of images differ."""


def pretrained() -> Table:
    """Return a table of all trained models, a row each; it prints in a terminal and in a notebook.

    Returns:
        The table; its `rows` hold name, model, data, the size of the weights in kB, and the score
        on test data: the KL divergence of points, the Fréchet distance of digits.

    Raises:
        ParameterError: naming the file, for a damaged card.

    Example:
        >>> [row["name"] for row in pretrained().rows if row["data"] == "rings"]
        ['as_intro-rings', 'soft_intro-rings', 'vae-rings']
    """
    rows = []
    for name in names():
        card = model_card(name)
        data, size = card["data"]["name"], round(card["weights"]["bytes"] / 1000)
        row = {"name": name, "model": card["model"], "data": data, "kB": size}
        row |= {"seeds": len(card["seeds"]["trained"])}
        row |= {"score": "KL" if data in POINTS else "Fréchet distance"}
        rows.append(row | {"value": card["scores"][card["headline"]]["value"]})
    return Table(rows)


def load_pretrained(name: str, device: str = "cpu") -> Autoencoder | GAN:
    """Return a trained model that travels with the package.

    Args:
        name: as in `pretrained()`, such as "as_intro-mnist".
        device: where the model goes: "cpu", "cuda", "cuda:1", "mps" or "auto".

    Returns:
        The model in evaluation mode, with the weights that its scores were measured with.

    Raises:
        ParameterError: for an unknown name, which names the nearest; for a device that is missing;
            naming the file, for a damaged one.

    Example:
        >>> sample(load_pretrained("vae-rings"), 5, seed=0).shape
        torch.Size([5, 2])
    """
    card = model_card(name)
    return restored(card, weights_of(card), device)


def model_card(name: str) -> dict[str, Any]:
    """Return what is known of a trained model: data, settings, seeds, scores, limits.

    Args:
        name: as in `pretrained()`.

    Returns:
        The card as plain data; `card_text` makes Markdown of it.

    Raises:
        ParameterError: for an unknown name, which names the nearest; naming the file, for a damaged
            card.

    Example:
        >>> model_card("vae-rings")["data"]["name"]
        'rings'
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(str(name)[:100], known, n=1, cutoff=0.0)
        nearest = f"did you mean {near[0]!r}? " if near else ""
        unknown = f"name={short(name)} is no trained model"
        raise ParameterError(f"{unknown}; {nearest}pretrained() lists all {len(known)}")
    path = embedded("pretrained") / f"{name}.json"
    try:
        card: dict[str, Any] = json.loads(path.read_bytes())
        if missing := {"name", "config", "weights", "scores"} - set(card):
            raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError) as error:
        raise broken(path, error) from None
    return card


def card_text(card: dict[str, Any], level: int = 1) -> str:
    """Return a card as Markdown.

    Args:
        card: from `model_card`.
        level: of its heading.
    """
    seeds, data = card["seeds"], card["data"]
    lines = [f"{'#' * level} {card['name']}", "", card["summary"], ""]
    lines += [f"**Data**: {data['what']}. Licence: {data['licence']}.", ""]
    lines += [f"**Seeds**: {seeds['how']}", ""]
    lines += ["| measure | this model | all seeds |", "|---|---:|---:|"]
    for name, score in card["scores"].items():
        lines.append(f"| {MEASURES.get(name, name)} | {shown(score['value'])} | {spread(score)} |")
    settings = ", ".join(f"`{name}={value!r}`" for name, value in card["settings"].items())
    lines += ["", card["measured"], "", f"**Settings** other than the defaults: {settings}.", ""]
    made = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    lines += [f"**Made** with {made}; code `{card['code'][:12]}`; {card['seconds']:.0f} s.", ""]
    weights = card["weights"]
    size = f"{weights['numbers']:,} numbers in {weights['type']}, {weights['bytes'] / 1000:.0f} kB"
    lines += [f"**Weights**: {size}. Licence: {weights['licence']}.", ""]
    return "\n".join([*lines, f"**Limits**: {' '.join(card['limits'])}", ""])


def shown(value: float | None) -> str:
    """Return a score with three digits."""
    return "—" if value is None else number_text(value, None)


def spread(score: dict[str, Any]) -> str:
    """Return the mean of all seeds with its interval, or what there is instead."""
    if "mean" in score:
        mean, low, high = (shown(score[name]) for name in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"
    return ", ".join(map(shown, score["seeds"])) if len(score["seeds"]) > 1 else "one seed"


def names() -> list[str]:
    """Return the names of all trained models, sorted."""
    return sorted(path.stem for path in embedded("pretrained").glob("*.json"))


def weights_of(card: dict[str, Any]) -> bytes:
    """Return the weights of a card's model as a safetensors file.

    Raises:
        ParameterError: naming the file, where it is missing or is another one.
    """
    path = embedded("pretrained") / f"{card['name']}.safetensors"
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != card["weights"]["sha256"]:
            raise ValueError("its SHA-256 is not that of its card")
    except (OSError, ValueError) as error:
        raise broken(path, error) from None
    return content


def restored(card: dict[str, Any], content: bytes | None, device: str = "cpu") -> Autoencoder | GAN:
    """Return the model that a card describes, in evaluation mode.

    Args:
        card: from `model_card`.
        content: of its safetensors file; None leaves the weights as the seed made them.
        device: as for `load_pretrained`.
    """
    config = RunConfig(**with_defaults(card["config"]) | {"device": device})
    model = build_model(config, example_shape(config))
    if content is not None:
        try:
            model.load_state_dict(load(content))
        except (SafetensorError, RuntimeError) as error:
            raise broken(Path(f"{card['name']}.safetensors"), error) from None
    return model.eval()


def broken(path: Path, error: Exception) -> ParameterError:
    """Return the error for a file that cannot be read."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return ParameterError(f"{path} cannot be read ({reason}); reinstall the package")
