"""Trained models as folders of the Hugging Face Hub; needs the extra `hub`."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import nn

from asintrovae.theory.networks import GAN, Autoencoder
from asintrovae.trained import card_text, load_pretrained, model_card, restored

HEAD = """---
license: cc-by-4.0
library_name: asintrovae
pipeline_tag: unconditional-image-generation
---

"""
"""What the Hub reads before the card."""


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="asintrovae"):
    """A model with its card, as the mixin saves and loads it.

    Args:
        card: from `model_card`.
        model: that the card describes; None makes one whose weights are loaded afterwards.
    """

    def __init__(self, card: dict[str, Any], model: Autoencoder | GAN | None = None) -> None:
        super().__init__()
        self.card = card
        self.model = restored(card, None) if model is None else model

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """Return the card as the README.md of the folder."""
        return ModelCard(HEAD + card_text(self.card))


def save_to_hub_folder(name: str, folder: str | Path) -> None:
    """Write a trained model as a folder that `load_from_hub` and the Hub understand.

    Args:
        name: as in `pretrained()`.
        folder: gets model.safetensors, config.json and README.md, the card.

    Raises:
        ParameterError: as `load_pretrained`.
    """
    HubModel(model_card(name), load_pretrained(name)).save_pretrained(folder)


def load_from_hub(source: str | Path, device: str = "cpu") -> Autoencoder | GAN:
    """Return the model of a folder that `save_to_hub_folder` wrote.

    Args:
        source: the folder, or the name of a repository on the Hub, which is fetched.
        device: where the model goes, as for torch.

    Returns:
        The model in evaluation mode.
    """
    loaded: HubModel = HubModel.from_pretrained(str(source), map_location=device)
    return loaded.model.to(device).eval()
