"""Feature networks of the Fréchet distance and of k-NN precision and recall."""

import hashlib
import pickle
import tempfile
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm  # text: a widget would be there even where the bar never shows

from asintrovae.config import RunConfig
from asintrovae.devices import computing_on, moved
from asintrovae.files import embedded
from asintrovae.ranges import check_other_range

CHUNK = 32
"""Images that go through a feature network together."""

RESIZE = "bilinear, half-pixel centres"
"""Resizing of images to 299 x 299 for inception.

It is torchmetrics' default, fixed here since that has changed once.
"""


class FeatureNetwork:
    """Fixed network that scores images.

    Scores are comparable only with the same network, so it carries its name.

    Args:
        name: "mnist-classifier" or "inception".
        network: module from bytes (B, C, H, W), uint8, to features (B, F).
        channels: C.
        device: where it computes.
        precision: "bf16-mixed" is bfloat16 autocast, another score than "32-true", as is "tf32" on
            CUDA (`computing_on`).
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        channels: int,
        device: torch.device,
        precision: str = "32-true",
    ) -> None:
        # Channels last: the same features to rounding, on a CPU in little more than half the time.
        moved = network.eval().to(device)
        self.network = moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name, self.channels, self.device = name, channels, device
        self.precision = precision

    @cached_property
    def weights(self) -> str:
        """SHA-256 of all that the features depend on.

        That is every weight, without those of InceptionV3's output layer `fc`.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
                digest.update(name.encode() + b"\0" + tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images.

        Values are clamped to [0, 1] and cut to bytes as torchmetrics does, real and generated
        images alike; grey is repeated to three channels where the network asks for three.

        Args:
            images: (B, C, H, W), C = 1 or 3, in [0, 1] or bytes.

        Returns:
            (B, F), float32 on the CPU; NaN for an image that is not finite.

        Raises:
            ValueError: for another shape, and for floats in another range.
        """
        if images.dim() != 4 or images.shape[1] not in (1, self.channels):
            wanted = " or ".join(map(str, sorted({1, self.channels})))
            takes = f"{self.name} takes images of shape (B, {wanted}, H, W)"
            raise ValueError(f"{takes}, got shape {tuple(images.shape)}")
        if images.dtype != torch.uint8:
            check_other_range("images", images, generated=True)
        parts = tqdm(torch.split(images, CHUNK), desc=self.name, unit="chunk", delay=5, leave=False)
        with computing_on(self.device, self.precision):
            return torch.cat([self._features(moved(part, self.device)) for part in parts])

    def _features(self, images: Tensor) -> Tensor:
        finite = images.flatten(1).isfinite().all(1, keepdim=True)
        pixels = to_bytes(images).expand(-1, self.channels, -1, -1)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"
        ):
            features: Tensor = self.network(pixels).float()
        return features.masked_fill(~finite, torch.nan).cpu()


def to_bytes(images: Tensor) -> Tensor:
    """Return images in [0, 1] cut to bytes 0..255; bytes as they are."""
    return images if images.dtype == torch.uint8 else (images.nan_to_num().clamp(0, 1) * 255).byte()


def build_features(config: RunConfig) -> FeatureNetwork | None:
    """Return the feature network of the run on its device.

    "mnist-classifier" is the small network that travels with the package. "inception" is
    InceptionV3 with the weights that FID is defined with (Heusel et al. 2017), its 2048 pool
    features, as torchmetrics builds it: from config.fid_weights, else from torchmetrics' own
    download, in config.fid_precision. Another network is never put in its place.

    Args:
        config: parameters of the run; feature_network names the network.

    Returns:
        The network, which takes images (B, C, H, W) in [0, 1] to features (B, F); None where
        config.feature_network is None.

    Raises:
        ModuleNotFoundError: without torch-fidelity.
        FileNotFoundError: without weights.
        ValueError: for a file of other weights.

    Example:
        >>> features = build_features(RunConfig(dataset="mnist-subset", device="cpu"))
        >>> features.name, features(torch.zeros(5, 1, 28, 28)).shape
        ('mnist-classifier', torch.Size([5, 64]))
    """
    if config.feature_network is None:
        return None
    if config.feature_network == "mnist-classifier":
        return FeatureNetwork("mnist-classifier", mnist_classifier(), 1, config.torch_device())
    return FeatureNetwork(
        "inception", inception(config.fid_weights), 3, config.torch_device(), config.fid_precision
    )


class MNISTClassifier(nn.Module):
    """Features (B, 64) of digits as bytes (B, 1, 28, 28); `head` makes ten logits of them.

    Recipe: data/mnist-classifier.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out in ((1, 16), (16, 32), (32, 48)):  # 28 -> 14 -> 7 -> 3
            layers += [
                nn.Conv2d(channels_in, channels_out, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48 * 3 * 3, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features, which are not negative."""
        features: Tensor = self.body(pixels.float() / 255)
        return features


def mnist_classifier() -> MNISTClassifier:
    """Return the trained classifier that travels with the package."""
    network = MNISTClassifier()
    network.load_state_dict(
        load_file(embedded("mnist-classifier") / "mnist-classifier.safetensors")
    )
    return network


def fetch_inception() -> None:
    """Put the weights where torch-fidelity looks, which would not check them.

    Their name holds the start of their SHA-256.

    Raises:
        OSError: where they cannot be had whole.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    if torch.hub.get_dir().startswith("~"):  # a user without a home folder
        torch.hub.set_dir(str(Path(tempfile.gettempdir(), "torch", "hub")))
    try:
        torch.hub.load_state_dict_from_url(
            URL_INCEPTION_V3, map_location="cpu", check_hash=True, weights_only=True
        )
    except RuntimeError as error:
        raise OSError(str(error)) from None


def inception(weights: str | None) -> nn.Module:
    """Return the InceptionV3 of FID, from bytes (B, 3, H, W) to (B, 2048).

    Args:
        weights: a local file; None downloads it once, and checks it.
    """
    without = "feature_network=None for a run without FID"
    ways = f"set fid_weights to a local weights-inception-2015-12-05-6726825d.pth, or {without}"
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"fid_weights={weights!r} is no file; {ways}")
    from asintrovae.data._torchvision import torchvision  # noqa: F401 (repaired for torchmetrics)

    from torchmetrics.image.fid import NoTrainInceptionV3  # isort: skip (slow: only here)

    try:
        if weights is None:
            fetch_inception()
        else:
            # torch-fidelity would run any code in the file
            torch.load(weights, map_location="cpu", weights_only=True)
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], weights, antialias=True)
    except ModuleNotFoundError:
        needed = "feature_network='inception' needs torch-fidelity, which is not installed"
        way_out = f"pip install 'asintrovae[fid]', or {without}"
        raise ModuleNotFoundError(f"{needed}: {way_out}") from None
    except OSError as error:
        message = f"feature_network='inception' found no weights: the download failed ({error})"
        raise FileNotFoundError(f"{message}; connect this machine to the network, {ways}") from None
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        held = f"fid_weights={weights!r} holds no weights of FID's InceptionV3 ({reason})"
        raise ValueError(f"{held}; {ways}") from None
