"""Trained autoencoders of digits that a reader plays with on a page without a kernel."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import anywidget
import torch
import traitlets
from torch import Tensor, nn

from asintrovae.data.sources import read_idx
from asintrovae.figures.style import MODEL_COLORS, MODEL_NAMES
from asintrovae.figures.widgets import _number, module
from asintrovae.files import embedded
from asintrovae.theory.batchnorm import evaluating
from asintrovae.theory.networks import Autoencoder, GaussianHead, ResidualBlock, Upsample

EDGE = 3.5
"""Half the side of the map of the latent plane."""


def _digit(default: int) -> Any:
    """Return a trait, a digit from 0 to 9."""
    return traitlets.Int(default, min=0, max=9).tag(sync=True)


class DigitExplorer(anywidget.AnyWidget):
    """Digit models side by side: a plane of the latent space, samples, and the reader's own digit.

    The networks compute in the browser, with weights of 16 bits.

    Args:
        models: name in RunConfig -> convolutional autoencoder of MNIST's digits. The embedded test
            digits rank its latent axes by how far their means spread.
        values: of the attributes.

    Attributes:
        plane: 0 of two latent axes, 1 through three digits.
        axis_1: rank of the axis to the right, from 0, the most active; each model has its own.
        axis_2: rank of the axis upwards.
        digit_1: digit at the bottom left, 0 to 9.
        digit_2: digit at the bottom right.
        digit_3: digit at the top.
        u: place on the plane, in [-EDGE, EDGE].
        v: place on the plane, in [-EDGE, EDGE].
        draw: seed of the 16 samples.
        example: digit that the reader begins with.

    Raises:
        ValueError: where a model has a layer that the page cannot compute.

    Example:
        >>> explorer = DigitExplorer({"vae": load_pretrained("vae-mnist")}, plane=1)
    """

    _esm = module("digits.js")

    plane = traitlets.Int(0, min=0, max=1).tag(sync=True)
    axis_1 = traitlets.Int(0, min=0).tag(sync=True)
    axis_2 = traitlets.Int(1, min=0).tag(sync=True)
    digit_1 = _digit(3)
    digit_2 = _digit(8)
    digit_3 = _digit(1)
    u = _number(0.0, -EDGE, EDGE)
    v = _number(0.0, -EDGE, EDGE)
    draw = traitlets.Int(0, min=0).tag(sync=True)
    example = _digit(5)
    names: Any = traitlets.List().tag(sync=True)
    colors: Any = traitlets.List().tag(sync=True)
    networks: Any = traitlets.List().tag(sync=True)
    axes: Any = traitlets.List().tag(sync=True)
    digits: Any = traitlets.Dict().tag(sync=True)

    def __init__(self, models: Mapping[str, Autoencoder], **values: Any) -> None:
        images, labels = labelled_digits()
        first = [labels.tolist().index(digit) for digit in range(10)]
        colors = [MODEL_COLORS[name] for name in models]
        super().__init__(
            names=[MODEL_NAMES[name] for name in models],
            colors=["currentColor" if color == "black" else color for color in colors],
            networks=[browser_network(model) for model in models.values()],
            axes=[ranked_axes(model, images) for model in models.values()],
            digits=packed([images[first]]),
            **values,
        )


def labelled_digits() -> tuple[Tensor, Tensor]:
    """Return the embedded test digits, (1000, 1, 28, 28) in [0, 1], and their labels."""
    folder = embedded("mnist-subset")
    images, labels = (
        read_idx(folder / f"t10k-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1")
    )
    return images.unsqueeze(1) / 255, labels


def ranked_axes(model: Autoencoder, x: Tensor) -> list[int]:
    """Return the latent axes by the variance of their means over x, the largest first."""
    with evaluating(model):
        spread = model.encode(x).mean.var(0)
    order: list[int] = spread.argsort(descending=True).tolist()
    return order


def browser_network(model: Autoencoder) -> dict[str, Any]:
    """Return a convolutional autoencoder as plain data that figures/digits.js computes.

    BatchNorm is part of the convolution before it, as in evaluation mode; of the encoder there is
    the mean of the posterior alone.

    Args:
        model: from `conv_autoencoder`, of grey images.

    Returns:
        "encoder" and "decoder", lists of operations with places in the weights; "weights", from
        `packed`; "side", H of the images.

    Raises:
        ValueError: naming a layer that the page cannot compute.
    """
    numbers: list[Tensor] = []
    encoder = operations(model.encoder.children(), numbers)
    decoder = operations(model.decoder.children(), numbers)
    with evaluating(model):
        parameter = next(model.parameters())
        side = model.decode(torch.zeros(1, model.latent_dim).to(parameter)).shape[-1]
    return {"encoder": encoder, "decoder": decoder, "weights": packed(numbers), "side": side}


def operations(layers: Iterable[nn.Module], numbers: list[Tensor]) -> list[dict[str, Any]]:
    """Return layers as operations, and add their weights to the numbers."""
    found: list[dict[str, Any]] = []
    layers = list(layers)
    for layer, behind in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            weight, bias = folded(layer, behind)
            step = placed(weight, bias, numbers)
            found.append({"op": "convolve", **step, "size": layer.kernel_size[0]})
        elif isinstance(layer, nn.Linear):
            found.append({"op": "linear", **placed(layer.weight, layer.bias, numbers)})
        elif isinstance(layer, GaussianHead):
            weight, bias = layer.linear.weight.chunk(2)[0], layer.linear.bias.chunk(2)[0]
            found.append({"op": "linear", **placed(weight, bias, numbers)})
        elif isinstance(layer, ResidualBlock):
            skip = operations([layer.skip], numbers)
            found.append({"op": "block", "skip": skip, "body": operations(layer.body, numbers)})
        elif isinstance(layer, nn.Unflatten):
            channels, side, _ = layer.unflattened_size
            found.append({"op": "shape", "channels": int(channels), "side": int(side)})
        elif type(layer) in PLAIN:
            found.append({"op": PLAIN[type(layer)]})
        elif not isinstance(layer, (nn.BatchNorm2d, nn.Flatten, nn.Identity)):
            known = "give a model of conv_autoencoder"
            raise ValueError(f"models holds a {type(layer).__name__}, unknown in a page; {known}")
    return found


PLAIN = {nn.ReLU: "relu", nn.LeakyReLU: "leaky", nn.AvgPool2d: "pool", Upsample: "up"}
"""Layers without weights -> operations of figures/digits.js."""


def folded(layer: nn.Conv2d, behind: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution together with the BatchNorm behind it, if any."""
    bias = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
    if not isinstance(behind, nn.BatchNorm2d):
        return layer.weight, bias
    assert behind.running_mean is not None
    assert behind.running_var is not None
    scale = behind.weight * (behind.running_var + behind.eps).rsqrt()
    shift = behind.bias + (bias - behind.running_mean) * scale
    return layer.weight * scale[:, None, None, None], shift


def placed(weight: Tensor, bias: Tensor, numbers: list[Tensor]) -> dict[str, int]:
    """Add weight and bias to the numbers and return where they are, and how many outputs."""
    at = sum(part.numel() for part in numbers)
    numbers += [weight, bias]
    return {"at": at, "bias": at + weight.numel(), "to": len(bias)}


def packed(numbers: Iterable[Tensor]) -> dict[str, Any]:
    """Return numbers as 16-bit integers times a unit for each tensor.

    Returns:
        "words", base64 of little-endian int16; "parts", [count, unit] of each tensor.
    """
    parts, words = [], b""
    for part in numbers:
        flat = part.detach().cpu().double().flatten()
        unit = max(float(flat.abs().max()) / 32767, 1e-30)
        words += (flat / unit).round().numpy().astype("<i2").tobytes()
        parts.append([len(flat), unit])
    return {"words": base64.b64encode(words).decode(), "parts": parts}
