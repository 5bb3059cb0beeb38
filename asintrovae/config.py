"""Every parameter of a run, in one place, validated before anything else happens."""

import ast
import difflib
import inspect
import os
import re
import reprlib
import textwrap
from collections.abc import Collection, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from typing_extensions import Self

from asintrovae.devices import has_bfloat16


@dataclass(frozen=True)
class DataSet:
    """Facts about a data set that are known before it is opened.

    Attributes:
        shape: of one example, (2,) for points, (C, H, W) for images; None for a folder of images,
            whose size is the parameter `resolution`.
        folder: of its files, below the root of all data sets, as torchvision names it; empty where
            it has none of its own.
        training_images: their number, where it is known.
        digits: whether "mnist-classifier" knows its images.
    """

    shape: tuple[int, ...] | None
    folder: str = ""
    training_images: int | None = None
    digits: bool = False


REGISTRY = {
    "8gaussians": DataSet((2,)),
    "25gaussians": DataSet((2,)),
    "checkerboard": DataSet((2,)),
    "2spirals": DataSet((2,)),
    "rings": DataSet((2,)),
    "mnist-subset": DataSet((1, 28, 28), training_images=6_000, digits=True),
    "mnist": DataSet((1, 28, 28), "MNIST/raw", 60_000, digits=True),
    "cifar10": DataSet((3, 32, 32), "cifar-10-batches-py", 50_000),
    "celeba128": DataSet((3, 128, 128), "celeba", 162_770),
    "celeba256": DataSet((3, 256, 256), "celeba", 162_770),
    "pet128": DataSet((3, 128, 128), "oxford-iiit-pet", 3_680),
    "flowers64": DataSet((3, 64, 64), "flowers-102", 2_040),
    "flowers128": DataSet((3, 128, 128), "flowers-102", 2_040),
    "folder": DataSet(None),
}
"""Every data set by its name; `data.DENSITIES` and `data.sources.OPENERS` open them."""
POINTS = tuple(name for name, data_set in REGISTRY.items() if data_set.shape == (2,))
DATASETS = {"points": POINTS, "images": tuple(name for name in REGISTRY if name not in POINTS)}
"""Names of the data sets, by kind."""
FOLDER_RESOLUTION = 128
"""Default of `resolution` for a folder of images."""

ModelName = Literal["vae", "intro", "soft_intro", "as_intro", "wgan_gp"]
if TYPE_CHECKING:
    DatasetName = str
else:
    DatasetName = Literal[tuple(REGISTRY)]

IMAGE_DEFAULTS: dict[str, Any] = {
    "latent_dim": 32,
    "widths": (16, 32),
    "beta_rec": 1.0,
    "beta_kl": 1.0,
    "beta_neg": 256.0,
    "iterations": 1122,
    "warmup": 0,
    "batch_size": 32,
    "channels_last": True,
    "evaluation_samples": 1000,
    "feature_network": "auto",
    "log_every": 17,
    "checkpoint_every": 187,
    "run_dir": "runs/images",
}
"""Defaults for images where they differ from those for points, which stand in RunConfig."""


class ParameterError(ValueError):
    """A parameter that does not exist or does not fit; its message is one line."""


def expand_home(name: str, path: str | PurePath) -> str:
    """Return the path with `~` or `~user` at its beginning replaced by that home folder.

    Args:
        name: of the parameter or variable that holds the path, for the error.
        path: environment variables in it stay as they are.

    Returns:
        The path as text.

    Raises:
        ParameterError: where no such home folder is known.
    """
    try:
        return _home_expanded(str(path))
    except ValueError as error:
        raise ParameterError(f"{name}={short(str(path))}: {error}") from None


def _home_expanded(path: str) -> str:
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        user = short(path.replace("\\", "/").split("/")[0])
        way_out = "write the path in full, or begin it with ./ for a folder of that name"
        raise ValueError(f"no home folder is known for {user}; {way_out}")
    return expanded


def _number(value: Any) -> Any:
    """Return the value; Python takes True for 1, which is a typing error in a parameter file."""
    if isinstance(value, (bool, bytes)):
        kind = "bytes" if isinstance(value, bytes) else "true or false"
        raise ValueError(f"must be a number, not {kind}")
    return value


def _whole(value: Any) -> Any:
    """Return the integer that a text means; YAML reads 1e4 as text."""
    if not isinstance(value, str):
        return _number(value)
    with suppress(ValueError):
        return int(value)
    with suppress(ValueError):
        if (number := float(value)).is_integer():
            return int(number)
    return value


def _list(value: Any, info: ValidationInfo) -> Any:
    """Return a list or tuple; a set has no order, and a generator may have no end."""
    if isinstance(value, (list, tuple)):
        return value
    default = RunConfig.model_fields[str(info.field_name)].default
    example = (list(default) if isinstance(default, tuple) else [default]) or [1000]
    listed = isinstance(value, str) and re.fullmatch(r"\[[\d., e-]{1,60}\]", value)
    passed = f'-y "{info.field_name}: {value if listed else example}"'
    ways = f"papermill passes a list by {passed} or by a file (-f)"
    raise ValueError(f"must be a list, such as {example}; {ways}")


def _one_or_several(value: Any) -> str:
    """Return whether a value is meant as a number or as a list."""
    listed = isinstance(value, str) and value.startswith("[")
    return "several" if listed or isinstance(value, (list, tuple)) else "one"


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, PurePath) else value


def _path(value: str) -> str:
    value = _home_expanded(value)
    if "\0" in value or any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError("is no path: NUL is not allowed, nor is a name of more than 255 bytes")
    return value


Number, Whole, List = BeforeValidator(_number), BeforeValidator(_whole), BeforeValidator(_list)
Natural = Annotated[int, Field(ge=0, le=10**9), Whole]
Count = Annotated[int, Field(ge=1, le=10**9), Whole]
Size = Annotated[int, Field(ge=1, le=2**16), Whole]
Processes = Annotated[int, Field(ge=1, le=1024), Whole]
Weight = Annotated[float, Field(ge=0, le=1e9), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]
Decay = Annotated[float, Field(ge=0, lt=1), Number]
Bandwidth = Annotated[
    Annotated[Weight, Tag("one")]
    | Annotated[tuple[Weight, ...], Field(min_length=1, max_length=16), List, Tag("several")],
    Discriminator(_one_or_several),
]
Precision = Literal["32-true", "tf32", "bf16-mixed"]
Device = Annotated[str, Field(strict=True, pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$")]
PathName = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=1000),
    AfterValidator(_path),
    BeforeValidator(_text),
]

FREE, MEMBER = "may change on resume", "may differ within an ensemble"
T = TypeVar("T")
Free = Annotated[T, FREE]
"""Type of a parameter that says where and how often, not what is computed."""
Member = Annotated[T, MEMBER]
"""Type of a parameter in which the members of an ensemble may differ."""


class RunConfig(BaseModel):
    """Parameters of one run, checked together.

    Defaults depend on the kind of data. For points they are the laptop protocol on 8 Gaussians,
    setting C1, about a minute; for images six epochs of the embedded digits, a few minutes.
    Numbers may come as text, as papermill's -r passes them, whole ones also as 1e4; paths as text
    or a Path, where ~ is the home folder.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    model: ModelName = "as_intro"
    """vae, intro, soft_intro, as_intro or wgan_gp."""
    dataset: Member[DatasetName] = "8gaussians"
    """name of the data set.
    Its kind, points or images, decides on the defaults of other parameters."""
    data_dir: Free[PathName | None] = None
    """folder of data sets; None: $ASINTROVAE_DATA, ./data.
    None takes the first of the two that holds the set. For dataset "folder" it is the folder of the
    images."""
    download: Free[bool] = False
    """let torchvision fetch a missing data set."""
    resolution: Annotated[int, Field(ge=8, le=4096), Whole] | None = None
    """height and width of a folder's images; None: 128.
    From 8 to 4096 pixels. For other images it is the size of the data set, for points None."""
    mirror: bool = False
    """flip half of the training images, drawn anew each epoch."""
    fit: Literal["crop", "squeeze"] = "crop"
    """files to squares: crop (the central one) or squeeze (all)."""
    strict_images: Free[bool] = False
    """stop at an unreadable image, do not skip it."""
    workers: Free[Annotated[int, Field(ge=0, le=256), Whole] | None] = None
    """processes that decode large sets; None: one per core.
    None is at most 8; 0 decodes in the process of the run; 256 at most."""
    latent_dim: Size = 2
    """n, axes of the latent space.
    At most 65536."""
    decoder_std: Weight = 0.0
    """σ of p(x|z); above 0 fakes are draws, 2 axes noise.
    For autoencoders of points with at least three latent axes; the last two are the noise."""
    widths: Annotated[tuple[Size, ...], Field(min_length=1, max_length=16), List] = (128, 128)
    """hidden layers, or channels per halving of images.
    The reference protocol has four of 256 for points, `theory.networks.PUBLISHED_WIDTHS` for
    images. At most 16 entries."""
    fourier_features: Annotated[int, Field(ge=0, le=2**16), Whole] = 0
    """number of sinusoids beside each network's input.
    For points only; at most 65536."""
    beta_rec: Member[Weight] = 0.2
    """β_rec, weight of the reconstruction error."""
    beta_kl: Member[Weight] = 0.3
    """β_kl, weight of the KL divergence of real data."""
    beta_neg: Member[Weight] = 0.9
    """β_neg, weight of the divergence of fakes."""
    alpha: Member[Annotated[float, Field(ge=1e-6, le=1e6), Number]] = 2.0
    """α, sharpness of the soft threshold (soft_intro, as_intro).
    From 1e-6 to 1e6."""
    gamma_r: Member[Weight] = 1e-8
    """γ_r, weight of reconstructing fakes."""
    margin: Member[Weight] = 10.0
    """m, margin in nats (intro)."""
    kl_annealing: Share = 0.0
    """share of the run over which β_kl rises to its value.
    It begins at a tenth of it."""
    kernel: Literal["mean", "product", "prior", "tempered"] = "mean"
    """of the AS-Distance: mean, product, prior or tempered."""
    bandwidth: Bandwidth = 0.0
    """h: D of posteriors convolved with N(0, h/2).
    A list of up to 16 numbers takes the mean of their D."""
    estimator: Literal["v", "u"] = "v"
    """of the AS-Distance: v (all pairs) or u (unbiased)."""
    pairing: Literal["reconstructed", "real"] = "reconstructed"
    """reconstructed or real: what D sets against x_g."""
    squash: bool = False
    """D of tanh(μ) and tanh(log λ), as in the published code."""
    distance_weight: Member[Weight] = 1.0
    """multiplies the AS-Distance; 1 as in the paper."""
    c: Member[Share | None] = None
    """weight of KL against D, 0 to 1; None anneals it."""
    beta_rec_decoder: Member[Weight | None] = None
    """β_rec of the decoder; None: the same (intro)."""
    beta_neg_decoder: Member[Weight | None] = None
    """β_neg of the decoder; None: the same (intro)."""
    hinge: Literal["example", "batch"] = "example"
    """[m - KL]+ per example, or of the batch mean (intro)."""
    reconstruction_hinge: Member[Weight] = 1.0
    """factor of the hinge of x_r (intro)."""
    detach_fakes: bool = True
    """R(sg x_r) in the encoder phase; False: R(x_r).
    False is the form of the published code."""
    c_schedule: Literal["linear", "tanh"] = "linear"
    """linear: min(5 i / T, 1), or tanh: tanh(5 i / T)."""
    distance_reduction: Literal["mean", "sum"] = "mean"
    """D over pairs, axes (encoder): mean or sum."""
    distance_weight_decoder: Member[Weight | None] = None
    """of the decoder's D; None: the same."""
    squash_kl: bool = False
    """tanh(μ), tanh(log λ) in the decoder's KL of fakes."""
    gradient_penalty: Member[Weight] = 10.0
    """λ_gp, weight of the gradient penalty (wgan_gp)."""
    critic_steps: Annotated[int, Field(ge=1, le=1000), Whole] = 5
    """critic steps per generator step (wgan_gp)."""
    iterations: Count = 8000
    """T, length of the run.
    The reference protocol for points has 30000."""
    warmup: Natural | None = None
    """iterations of plain VAE at the start; None: T / 16."""
    batch_size: Annotated[int, Field(ge=1, le=2**20), Whole] = 256
    """B, examples per iteration.
    The reference protocol has 512 points or 128 images."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Number] = 1e-3
    """step size of Adam.
    The reference protocol has 2e-4."""
    adam_betas: Annotated[tuple[Decay, Decay], List] = (0.9, 0.999)
    """decay of Adam's moments; 0, 0.9 for wgan_gp."""
    milestones: Annotated[tuple[Count, ...], Field(max_length=1000), List] = ()
    """iterations where the learning rate falls to a tenth."""
    ema: Decay = 0.0
    """decay of the decoder's moving average, in [0, 1); 0 is none.
    0.999 suits long runs on images."""
    seed: Member[Annotated[int, Field(ge=0, lt=2**63), Whole]] = 0
    """fixes initial weights, data, noise and evaluation."""
    device: Free[Device] = "auto"
    """auto (cuda if there is one, else cpu), cpu, mps, cuda.
    Or one GPU, cuda:0 to cuda:99."""
    devices: Free[Processes] = 1
    """processes that share each batch, one per GPU."""
    precision: Precision = "32-true"
    """32-true, or bf16-mixed: layers compute in 16 bits.
    On CUDA 32-true takes deterministic algorithms and no TF32; tf32 allows TF32, of 11 bits, and
    the fastest algorithms, and so does bf16-mixed, which needs compute capability 8.0. Elsewhere
    tf32 is 32-true."""
    channels_last: bool = False
    """memory layout; convolutions may run faster.
    For images only."""
    compile: bool = False
    """torch.compile: a slow start, then faster steps."""
    threads: Free[Processes | None] = None
    """CPU threads; None: chosen for machine and network."""
    evaluation_samples: Free[Annotated[int, Field(ge=2, le=10**7), Whole]] = 5000
    """examples of either kind that metrics compare.
    Test examples, if there are so many, and as many generated ones."""
    feature_network: Free[Literal["auto", "mnist-classifier", "inception"] | None] = None
    """mnist-classifier, inception (gives FID) or None.
    "auto" is "mnist-classifier" for digits and None for other data; it never stays "auto"."""
    fid_weights: Free[PathName | None] = None
    """file of inception's weights; None downloads them."""
    fid_precision: Free[Precision] = "32-true"
    """of inception's features: 32-true, bf16-mixed.
    bf16-mixed is faster and gives another score, as tf32 does on CUDA."""
    log_every: Free[Count] = 100
    """iterations between two rows of the history."""
    checkpoint_every: Free[Count] = 1000
    """iterations between two checkpoints."""
    run_dir: Free[PathName] = "runs/toy"
    """everything the run leaves behind goes here."""

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**_with_defaults_of_kind(parameters))
        except ValidationError as error:
            problems = [_in_one_line(dict(problem)) for problem in error.errors(include_url=False)]
            more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
            raise ParameterError("; ".join(problems[:5] + more)) from None

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        """Check what parameters of the loop say about each other."""
        warmup = f"warmup={self.warmup}"
        iterations = f"iterations={self.iterations}"
        if self.warmup is not None and self.warmup > self.iterations:
            raise ValueError(f"{warmup} exceeds {iterations}; lower it or leave it out")
        anneals = self.model == "as_intro" and self.c is None and self.c_schedule == "linear"
        if anneals and 5 * self.warmup_iterations() >= self.iterations > 1:
            reached = f"c reaches 1 after {self.iterations // 5} of {iterations}"
            way_out = "shorten warmup or fix c in [0, 1]"
            lost = f"leaves nothing of the annealing: {reached}, before the game begins"
            raise ValueError(f"{warmup} {lost}; {way_out}")
        return self

    @model_validator(mode="after")
    def _machine_fits(self) -> Self:
        """Check devices against the batch, and that a folder is named."""
        devices = f"devices={self.devices}"
        if self.dataset == "folder" and self.data_dir is None:
            needed = "data_dir, the folder that holds the images, got data_dir=None"
            raise ValueError(f"dataset='folder' needs {needed}")
        if self.batch_size % self.devices:
            what = f"cannot share batch_size={self.batch_size} equally"
            raise ValueError(f"{devices} {what}; make batch_size a multiple of devices")
        if self.devices > 1 and ":" in self.device:
            one = f"device={self.device!r} is one GPU"
            raise ValueError(f"{one}, but {devices}; use device='cuda'")
        return self

    @model_validator(mode="after")
    def _kind_fits(self) -> Self:
        """Check parameters that are for one kind of data set."""
        points = self.dataset in POINTS
        given = f"dataset={self.dataset!r}"
        if self.channels_last and points:
            raise ValueError(f"channels_last=True is for images, but {given}; leave it out")
        if self.fourier_features and not points:
            features = f"fourier_features={self.fourier_features}"
            raise ValueError(f"{features} is for points, but {given}; leave it out")
        if self.decoder_std and (not points or self.model == "wgan_gp" or self.latent_dim < 3):
            taken = "takes the last two latent axes of an autoencoder of points for its noise"
            given = f"{given}, model={self.model!r} and latent_dim={self.latent_dim} do not allow"
            way_out = "an autoencoder of points with latent_dim of at least 3"
            raise ValueError(
                f"decoder_std={self.decoder_std} {taken}, which {given}; "
                f"use decoder_std=0, or {way_out}"
            )
        return self

    @model_validator(mode="after")
    def _estimator_fits(self) -> Self:
        """Check that the unbiased estimator has pairs, and all that it needs."""
        if self.model == "as_intro" and self.estimator == "u" and self.batch_size < 2:
            needed = "batch_size of at least 2, got batch_size=1"
            raise ValueError(f"estimator='u' needs {needed}; use estimator='v'")
        if self.distance_reduction == "sum" and self.estimator == "u":
            left_out = "takes all pairs, but estimator='u' leaves some out"
            raise ValueError(f"distance_reduction='sum' {left_out}; use estimator='v'")
        return self

    @model_validator(mode="after")
    def _images_fit(self) -> Self:
        """Check the size and the number of images; of images the size is known by now."""
        size, times = self.resolution, len(self.widths)
        if size is None:
            return self
        given = f"dataset={self.dataset!r}"
        if self.dataset in POINTS:
            raise ValueError(f"resolution={size} is for images, but {given}; leave it out")
        own = _size_of(self.dataset)
        if self.dataset != "folder" and size != own:
            raise ValueError(f"resolution={size}: {given} has images of {own}x{own}; leave it out")
        if size % 2**times:
            halved = f"widths={self.widths} halves the image {times} times"
            way_out = f"use fewer widths, or a resolution that is a multiple of {2**times}"
            raise ValueError(f"{halved}, which resolution={size} does not allow; {way_out}")
        if self.batch_size == 1 and size == 2**times:
            halved = f"widths={self.widths} halve the image to 1x1"
            halved = f"nothing to average: {halved}"
            way_out = "use a larger batch_size or fewer widths"
            raise ValueError(f"batch_size=1 leaves BatchNorm {halved}; {way_out}")
        count = REGISTRY[self.dataset].training_images or self.batch_size
        if self.batch_size > count:
            images = f"the {count} training images of {given}"
            raise ValueError(f"batch_size={self.batch_size} exceeds {images}; lower it")
        return self

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        """Check that the feature network knows such data, and has enough of them."""
        if self.feature_network is None:
            return self
        network, given = f"feature_network={self.feature_network!r}", f"dataset={self.dataset!r}"
        if self.dataset in POINTS:
            way_out = "use feature_network=None"
            raise ValueError(f"{network} looks at images, {given} is points; {way_out}")
        if self.feature_network == "mnist-classifier" and not REGISTRY[self.dataset].digits:
            way_out = "use feature_network='inception' or None"
            raise ValueError(f"{network} knows digits only, not {given}; {way_out}")
        if self.evaluation_samples < 4:
            needed = f"evaluation_samples of at least 4, got {self.evaluation_samples}"
            raise ValueError(f"{network} needs {needed}")
        return self

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any], kind: str | None = None) -> Self:
        """Return the parameters that a notebook's cell and papermill left as variables.

        Besides the known names every variable that holds text, a number, None, a list or a mapping
        is taken for a parameter, so that a misspelt one is noticed. Left out are names with a
        leading underscore, and names that cells behind the Configuration made when the notebook ran
        before in the same kernel.

        Args:
            namespace: `globals()` of the notebook.
            kind: "points" or "images", the data sets that the notebook can draw; None is any.

        Returns:
            The parameters of the run.

        Raises:
            ParameterError: as RunConfig does, and for a data set of another kind.
        """
        later = _made_later(namespace)
        given = {
            name: value
            for name, value in namespace.items()
            if _is_parameter(name, value) and name not in later
        }
        config = cls(**given)
        if kind is not None and config.dataset not in DATASETS[kind]:
            takes = f"this notebook takes {', '.join(DATASETS[kind])}"
            raise ParameterError(f"dataset={config.dataset!r}: {takes}")
        if isinstance(namespace, MutableMapping) and not _history(namespace):
            namespace["_read_before"] = id(namespace), frozenset(namespace) - later
        return config

    def warmup_iterations(self) -> int:
        """Return the iterations of plain VAE before the introspective game.

        Returns:
            `warmup`, by default a sixteenth of the run.

        Example:
            >>> RunConfig(iterations=8000).warmup_iterations()
            500
        """
        return self.iterations // 16 if self.warmup is None else self.warmup

    def torch_device(self) -> torch.device:
        """Return the device of the run; "auto" is CUDA where there is one.

        Raises:
            ParameterError: where the device is missing, or lacks the bfloat16 that is asked for.
        """
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        available = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        given = f"device={name!r}: this machine has"
        if not available[name.split(":")[0]]:
            raise ParameterError(f"{given} none; use device='auto' or 'cpu'")
        device, count = torch.device(name), torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= count:
            counted = f"{count} GPUs, counted from cuda:0"
            raise ParameterError(f"{given} {counted}; use device='auto'")
        self._check_bfloat16(device)
        return device

    def _check_bfloat16(self, device: torch.device) -> None:
        """Raise ParameterError where the GPU has no bfloat16, which would be emulated."""
        scored = self.fid_precision if self.feature_network == "inception" else "32-true"
        asked = {"precision": self.precision, "fid_precision": scored}
        names = [name for name, value in asked.items() if value == "bf16-mixed"]
        if names and not has_bfloat16(device):
            capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
            gpu = f"{torch.cuda.get_device_name(device)} has compute capability {capability}"
            needs = f"needs compute capability 8.0 or more, {gpu}"
            raise ParameterError(f"{names[0]}='bf16-mixed' {needs}; use '32-true'")


def description_of(name: str) -> str:
    """Return the description of a parameter in one paragraph, with its default and its marks."""
    field = RunConfig.model_fields[name]
    default = f"Default {field.default!r}"
    if name in IMAGE_DEFAULTS:
        default += f", for images {IMAGE_DEFAULTS[name]!r}"
    marks = [mark for mark in (FREE, MEMBER) if mark in field.metadata]
    return " ".join(f"{field.description or ''} {'; '.join([default, *marks])}.".split())


def marked(mark: str) -> tuple[str, ...]:
    """Return the names of the parameters that bear a mark, FREE or MEMBER, in order."""
    return tuple(name for name, field in RunConfig.model_fields.items() if mark in field.metadata)


def _manual() -> str:
    """Return the docstring of RunConfig, completed by its parameters, an example and its error."""
    wrap = textwrap.TextWrapper(100, " " * 8, " " * 12, break_on_hyphens=False)
    names = RunConfig.model_fields
    parameters = [wrap.fill(f"{name}: {description_of(name)}") for name in names]
    return "\n".join([RunConfig.__doc__ or "", "    Args:", *parameters, MANUAL_END])


MANUAL_END = """
    Raises:
        ParameterError: in one line that names the parameter, its value and the way out, for unknown
            names (with the nearest known one), wrong types, values out of range and values that do
            not fit together.

    Example:
        >>> config = RunConfig(model="soft_intro", dataset="rings", iterations="1e4")
        >>> config.iterations, config.batch_size
        (10000, 256)
    """
RunConfig.__doc__ = _manual()
RunConfig.__signature__ = inspect.Signature(  # pydantic's would spell out every annotation
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for name, field in RunConfig.model_fields.items()
    ]
)


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved parameters of a run, completed by the defaults of those added since.

    A parameter that is added has one default for all kinds of data, that of its field.
    `resolution`, which once was 128 whatever the data set, becomes the size of the data set.

    Args:
        saved: name -> value as in JSON.
    """
    filled = RunConfig().model_dump(mode="json") | dict(saved)
    if filled["dataset"] != "folder" or filled["resolution"] is None:
        filled["resolution"] = _size_of(filled["dataset"])
    return filled


def differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], free: Collection[str] = ()
) -> str:
    """Return what differs between two runs.

    Args:
        saved: name -> value as in JSON.
        wanted: the same; its names are compared.
        free: names that may differ.

    Returns:
        "name X there, Y here", joined by commas; empty where nothing differs.

    Example:
        >>> differences({"seed": 0}, {"seed": 1})
        'seed 0 there, 1 here'
    """
    names = [name for name in wanted if name not in free and saved.get(name) != wanted[name]]
    return ", ".join(f"{name} {saved.get(name)!r} there, {wanted[name]!r} here" for name in names)


def _size_of(name: str) -> int | None:
    """Return the default of `resolution`: the size of a data set of images, None for points."""
    if name in POINTS or name not in REGISTRY:
        return None
    shape = REGISTRY[name].shape
    return FOLDER_RESOLUTION if shape is None else shape[1]


def _with_defaults_of_kind(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the defaults that depend on the data set, where it is of images."""
    dataset = given.get("dataset")
    images = isinstance(dataset, str) and dataset in DATASETS["images"]
    filled = {**(IMAGE_DEFAULTS if images else {}), **given}
    if images and filled.get("resolution") is None:
        filled["resolution"] = _size_of(str(dataset))
    network = filled.get("feature_network")
    if isinstance(network, str) and network == "auto":
        digits = images and REGISTRY[str(dataset)].digits
        filled["feature_network"] = "mnist-classifier" if digits else None
    return filled


def _is_parameter(name: str, value: Any) -> bool:
    """Return whether a variable of a notebook is taken for a parameter."""
    plain = isinstance(value, (str, bytes, int, float, list, tuple, dict, set)) or value is None
    own = name.startswith("_") or name in ("In", "Out")  # IPython's
    return name in RunConfig.model_fields or (plain and not own)


def _made_later(namespace: Mapping[str, Any]) -> set[str]:
    """Return the names that cells behind an earlier Configuration made, by IPython's history.

    A cell of parameters ends them. Without a history: all names that were not there at an earlier
    call.
    """
    known = RunConfig.model_fields.keys()
    history = _history(namespace)
    if not history:
        whose, before = namespace.get("_read_before", (None, frozenset()))
        return set(namespace) - before - known if whose == id(namespace) else set()
    later: set[str] = set()
    behind = False
    for cell in history[:-1]:  # the last one is this call
        names = _assigned(cell)
        behind = "from_namespace" in cell or (behind and not names & known)
        later = later | names if behind else later - names
    return later - known


def _history(namespace: Mapping[str, Any]) -> list[str]:
    """Return the cells that IPython has run, in order, the present one last."""
    return [cell for cell in namespace.get("In", []) if cell]


def _assigned(cell: str) -> set[str]:
    """Return the names that the code of a cell assigns."""
    try:
        nodes = list(ast.walk(ast.parse(cell)))
    except (SyntaxError, ValueError):
        return set()
    names = (node for node in nodes if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


WHOLE = ("int_type", "int_parsing", "int_parsing_size", "int_from_float")
MESSAGES = {
    **dict.fromkeys(WHOLE, "must be a whole number, such as 1000"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number, such as 0.5"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "finite_number": "must be finite",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": (  # device
        "must be 'auto', 'cpu', 'mps', 'cuda' or one GPU, 'cuda:0' to 'cuda:99'"
    ),
    "literal_error": "must be {expected}",
    "too_short": "must have {min_length} or more entries, got {actual_length}",
    "too_long": "must have {max_length} or fewer entries, got {actual_length}",
    "missing": "must have two entries",  # adam_betas
}
"""Meaning of pydantic's errors, by type."""


def _in_one_line(problem: dict[str, Any]) -> str:
    """Return one line for one of pydantic's errors."""
    if not problem["loc"]:  # from a validator of the whole, which names its parameters itself
        return str(problem["ctx"]["error"])
    name, value = str(problem["loc"][0]), problem["input"]
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name[:100], RunConfig.model_fields, n=1, cutoff=0.0)
        return f"unknown parameter {short(name)} (value {short(value)}); did you mean {near[0]!r}?"
    limits = {key: _as_written(limit) for key, limit in problem.get("ctx", {}).items()}
    message = MESSAGES.get(problem["type"], "").format(**limits) or problem["msg"]
    message = message.removeprefix("Value error, ")
    if value is None:
        return f"{name}=None: {message}; leave it out for the default"
    chosen = problem["type"] in ("literal_error", "string_pattern_mismatch")
    if chosen and (near := _nearest(value, message)):
        message += f"; did you mean {near[0]!r}?"
    return f"{name}={short(value)}: {message}"


def _as_written(limit: Any) -> Any:
    """Return a limit of a range without the decimals of a whole number."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _nearest(value: Any, message: str) -> list[str]:
    """Return the option quoted in a message that the value was probably meant to be, if any."""
    if not isinstance(value, str):
        return []
    text = value[:100].strip().lower()
    text = text.replace("gpu", "cuda") if "'cuda'" in message else text
    return difflib.get_close_matches(text, re.findall(r"'([^']*)'", message), n=1, cutoff=0.5)


_shortened = reprlib.Repr()
_shortened.maxlevel = 2
_shortened.maxlist = _shortened.maxtuple = 16
_shortened.maxstring = _shortened.maxother = 100


def short(value: Any) -> str:
    """Return the repr of a value in one line of at most 200 characters, whatever it is."""
    try:
        text = _shortened.repr(value)
    except Exception:  # an integer of thousands of digits has no repr, and an object's own may fail
        text = f"<{type(value).__name__}>"
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= 200 else f"{text[:197]}..."
