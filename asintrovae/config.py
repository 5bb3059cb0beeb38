"""Every parameter of a run, in one place, validated before anything else happens."""

import ast
import difflib
import os
import re
import reprlib
from collections.abc import Collection, Mapping, MutableMapping
from contextlib import suppress
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from typing_extensions import Self

ModelName = Literal["vae", "intro", "soft_intro", "as_intro", "wgan_gp"]


PointsName = Literal["8gaussians", "25gaussians", "checkerboard", "2spirals", "rings"]


ImagesName = Literal[
    "mnist-subset",
    "mnist",
    "cifar10",
    "celeba128",
    "celeba256",
    "pet128",
    "flowers64",
    "flowers128",
    "folder",
]


DatasetName = Literal[PointsName, ImagesName]


DATASETS = {"points": get_args(PointsName), "images": get_args(ImagesName)}
"""Names of the data sets, by kind."""


DIGITS = ("mnist-subset", "mnist")


SHAPES: dict[str, tuple[int, int, int]] = {
    **{name: (1, 28, 28) for name in DIGITS},
    "cifar10": (3, 32, 32),
    "celeba128": (3, 128, 128),
    "celeba256": (3, 256, 256),
    "pet128": (3, 128, 128),
    "flowers64": (3, 64, 64),
    "flowers128": (3, 128, 128),
}
"""Shape (C, H, W) of the images of every data set but `folder`, which takes `resolution`."""


RESOLUTIONS = {name: shape[1] for name, shape in SHAPES.items()} | {"folder": 128}
"""Default of `resolution` for each data set of images; only `folder` takes another."""


TRAINING_IMAGES = {"mnist-subset": 6_000, "mnist": 60_000, "cifar10": 50_000, "pet128": 3_680}


TRAINING_IMAGES |= {
    "celeba128": 162_770,
    "celeba256": 162_770,
    "flowers64": 2_040,
    "flowers128": 2_040,
}
"""Number of training images of the data sets where it is known."""


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
"""Defaults for data sets of images where they differ from those for points, which stand in RunConfig."""


class ParameterError(ValueError):
    """A parameter that does not exist or does not fit; its message is one line."""


def expand_home(name: str, path: str | PurePath) -> str:
    """Return the path with `~` or `~user` at its beginning replaced by that home folder.

    name: of the parameter or variable that holds it, for the error. path: environment variables in it stay as they are.
    Raises ParameterError where no such home folder is known.
    """
    try:
        return _home_expanded(str(path))
    except ValueError as error:
        raise ParameterError(f"{name}={short(str(path))}: {error}") from None


def _home_expanded(path: str) -> str:
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path:
        user = path.replace("\\", "/").split("/")[0]
        raise ValueError(
            f"no home folder is known for {short(user)}; write the path in full, or begin it with ./ for a folder of that name"
        )
    return expanded


def _number(value: Any) -> Any:
    if isinstance(
        value, (bool, bytes)
    ):  # Python takes True for 1, a typing error in a parameter file
        kind = "bytes" if isinstance(value, bytes) else "true or false"
        raise ValueError(f"must be a number, not {kind}")
    return value


def _whole(value: Any) -> Any:
    """The integer that a text means; YAML reads 1e4 as text."""
    if not isinstance(value, str):
        return _number(value)
    with suppress(ValueError):
        return int(value)
    with suppress(ValueError):
        if (number := float(value)).is_integer():
            return int(number)
    return value


def _list(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, (list, tuple)):  # a set has no order, and a generator may have no end
        return value
    example = list(RunConfig.model_fields[str(info.field_name)].default) or [1000]
    text = (
        value
        if isinstance(value, str) and re.fullmatch(r"\[[\d., e-]{1,60}\]", value)
        else str(example)
    )
    raise ValueError(
        f'must be a list, such as {example}; papermill passes a list by -y "{info.field_name}: {text}" or by a file (-f)'
    )


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, PurePath) else value


def _path(value: str) -> str:
    value = _home_expanded(value)
    if "\0" in value or any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError("is no path: NUL is not allowed, nor is a name of more than 255 bytes")
    return value


Number, Whole, List = BeforeValidator(_number), BeforeValidator(_whole), BeforeValidator(_list)


Count = Annotated[int, Field(ge=1, le=10**9), Whole]


Size = Annotated[int, Field(ge=1, le=2**16), Whole]


Weight = Annotated[float, Field(ge=0, le=1e9), Number]


Share = Annotated[float, Field(ge=0, le=1), Number]


Decay = Annotated[float, Field(ge=0, lt=1), Number]


PathName = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=1000),
    AfterValidator(_path),
    BeforeValidator(_text),
]


class RunConfig(BaseModel):
    """Parameters of one run; the training notebooks list every parameter with its meaning.

    The defaults depend on the kind of data and are those of the notebook for it. For points they stand below: the laptop
    protocol on 8 Gaussians, setting C1, about a minute. For images IMAGE_DEFAULTS replaces some of them: six epochs of
    the embedded digits, a few minutes.
    resolution: None is the size of the data set, 128 for a folder. After construction it is a number for images.
    feature_network: "auto" is "mnist-classifier" for digits and None for other data. It never stays "auto".
    data_dir, fid_weights, run_dir: text or a Path; `~` is the home folder.
    Numbers may come as text, as papermill's -r passes them, whole ones also as 1e4.
    Raises ParameterError, in one line that names the parameter, its value and the way out, for unknown names (with the
    nearest known one), wrong types, values out of range and values that do not fit together.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    model: ModelName = "as_intro"
    dataset: DatasetName = "8gaussians"
    data_dir: PathName | None = None
    download: bool = False
    resolution: Annotated[int, Field(ge=8, le=4096), Whole] | None = None
    mirror: bool = False
    fit: Literal["crop", "squeeze"] = "crop"
    strict_images: bool = False
    workers: Annotated[int, Field(ge=0, le=256), Whole] | None = None
    latent_dim: Size = 2
    decoder_std: Weight = 0.0
    widths: Annotated[tuple[Size, ...], Field(min_length=1, max_length=16), List] = (128, 128)
    fourier_features: Annotated[int, Field(ge=0, le=2**16), Whole] = 0
    beta_rec: Weight = 0.2
    beta_kl: Weight = 0.3
    beta_neg: Weight = 0.9
    alpha: Annotated[float, Field(ge=1e-6, le=1e6), Number] = 2.0
    gamma_r: Weight = 1e-8
    margin: Weight = 10.0
    kl_annealing: Share = 0.0
    kernel: Literal["mean", "product", "prior"] = "mean"
    estimator: Literal["v", "u"] = "v"
    pairing: Literal["reconstructed", "real"] = "reconstructed"
    squash: bool = False
    distance_weight: Weight = 1.0
    c: Share | None = None
    beta_rec_decoder: Weight | None = None
    beta_neg_decoder: Weight | None = None
    hinge: Literal["example", "batch"] = "example"
    reconstruction_hinge: Weight = 1.0
    detach_fakes: bool = True
    c_schedule: Literal["linear", "tanh"] = "linear"
    distance_reduction: Literal["mean", "sum"] = "mean"
    distance_weight_decoder: Weight | None = None
    squash_kl: bool = False
    gradient_penalty: Weight = 10.0
    critic_steps: Annotated[int, Field(ge=1, le=1000), Whole] = 5
    iterations: Count = 8000
    warmup: Annotated[int, Field(ge=0, le=10**9), Whole] | None = None
    batch_size: Annotated[int, Field(ge=1, le=2**20), Whole] = 256
    learning_rate: Annotated[float, Field(gt=0, le=1), Number] = 1e-3
    adam_betas: Annotated[tuple[Decay, Decay], List] = (0.9, 0.999)
    milestones: Annotated[tuple[Count, ...], Field(max_length=1000), List] = ()
    ema: Decay = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63), Whole] = 0
    device: Annotated[
        str, Field(strict=True, pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$")
    ] = "auto"
    devices: Annotated[int, Field(ge=1, le=1024), Whole] = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = False
    compile: bool = False
    threads: Annotated[int, Field(ge=1, le=1024), Whole] | None = None
    evaluation_samples: Annotated[int, Field(ge=2, le=10**7), Whole] = 5000
    feature_network: Literal["auto", "mnist-classifier", "inception"] | None = None
    fid_weights: PathName | None = None
    fid_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    log_every: Count = 100
    checkpoint_every: Count = 1000
    run_dir: PathName = "runs/toy"

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**_with_defaults_of_kind(parameters))
        except ValidationError as error:
            problems = [_in_one_line(dict(problem)) for problem in error.errors(include_url=False)]
            more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
            raise ParameterError("; ".join(problems[:5] + more)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup is not None and self.warmup > self.iterations:
            raise ValueError(
                f"warmup={self.warmup} exceeds iterations={self.iterations}; lower it or leave it out"
            )
        anneals = self.model == "as_intro" and self.c is None and self.c_schedule == "linear"
        if anneals and 5 * self.warmup_iterations() >= self.iterations > 1:
            raise ValueError(
                f"warmup={self.warmup} leaves nothing of the annealing: c reaches 1 after {self.iterations // 5} of "
                f"iterations={self.iterations}, before the game begins; shorten warmup or fix c in [0, 1]"
            )
        if self.dataset == "folder" and self.data_dir is None:
            raise ValueError(
                "dataset='folder' needs data_dir, the folder that holds the images, got data_dir=None"
            )
        if self.batch_size % self.devices:
            raise ValueError(
                f"devices={self.devices} cannot share batch_size={self.batch_size} equally; make batch_size a multiple of devices"
            )
        if self.devices > 1 and ":" in self.device:
            raise ValueError(
                f"device={self.device!r} is one GPU, but devices={self.devices}; use device='cuda'"
            )
        if self.channels_last and self.dataset in DATASETS["points"]:
            raise ValueError(
                f"channels_last=True is for images, but dataset={self.dataset!r}; leave it out"
            )
        if self.fourier_features and self.dataset in DATASETS["images"]:
            raise ValueError(
                f"fourier_features={self.fourier_features} is for points, but dataset={self.dataset!r}; leave it out"
            )
        if self.decoder_std and (
            self.dataset not in DATASETS["points"] or self.model == "wgan_gp" or self.latent_dim < 3
        ):
            given = (
                f"dataset={self.dataset!r}, model={self.model!r} and latent_dim={self.latent_dim}"
            )
            raise ValueError(
                f"decoder_std={self.decoder_std} takes the last two latent axes of an autoencoder of points for its noise, "
                f"which {given} do not allow; use decoder_std=0, or an autoencoder of points with latent_dim of at least 3"
            )
        if self.model == "as_intro" and self.estimator == "u" and self.batch_size < 2:
            raise ValueError(
                "estimator='u' needs batch_size of at least 2, got batch_size=1; use estimator='v'"
            )
        if self.distance_reduction == "sum" and self.estimator == "u":
            raise ValueError(
                "distance_reduction='sum' takes all pairs, but estimator='u' leaves some out; use estimator='v'"
            )
        return self

    @model_validator(mode="after")
    def _images_fit(self) -> Self:
        size, times = self.resolution, len(self.widths)
        if size is None:  # points; of images the size is known by now
            return self
        if self.dataset in DATASETS["points"]:
            raise ValueError(
                f"resolution={size} is for images, but dataset={self.dataset!r}; leave it out"
            )
        own = RESOLUTIONS[self.dataset]
        if self.dataset != "folder" and size != own:
            raise ValueError(
                f"resolution={size}: dataset={self.dataset!r} has images of {own}x{own}; leave it out"
            )
        if size % 2**times:
            raise ValueError(
                f"widths={self.widths} halves the image {times} times, which resolution={size} does not allow; "
                f"use fewer widths, or a resolution that is a multiple of {2**times}"
            )
        if self.batch_size == 1 and size == 2**times:
            raise ValueError(
                f"batch_size=1 leaves BatchNorm nothing to average: widths={self.widths} halve the image to 1x1; "
                "use a larger batch_size or fewer widths"
            )
        count = TRAINING_IMAGES.get(self.dataset, self.batch_size)
        if self.batch_size > count:
            raise ValueError(
                f"batch_size={self.batch_size} exceeds the {count} training images of dataset={self.dataset!r}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        if self.feature_network is None:
            return self
        given = f"feature_network={self.feature_network!r}"
        if self.dataset in DATASETS["points"]:
            raise ValueError(
                f"{given} looks at images, dataset={self.dataset!r} is points; use feature_network=None"
            )
        if self.feature_network == "mnist-classifier" and self.dataset not in DIGITS:
            raise ValueError(
                f"{given} knows digits only, not dataset={self.dataset!r}; use feature_network='inception' or None"
            )
        if self.evaluation_samples < 4:
            raise ValueError(
                f"{given} needs evaluation_samples of at least 4, got {self.evaluation_samples}"
            )
        return self

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any], kind: str | None = None) -> Self:
        """Return the parameters that the `parameters` cell of a notebook and papermill left as variables.

        namespace: `globals()` of the notebook. Besides the known names every variable that holds text, a number, None, a
        list or a mapping is taken for a parameter, so that a misspelt one is noticed. Left out are names with a leading
        underscore, and names that cells behind the Configuration made when the notebook ran before in the same kernel.
        kind: "points" or "images", the data sets that the notebook can draw; None is any.
        Raises ParameterError as RunConfig does, and for a data set of another kind.
        """
        later = _made_later(namespace)
        given = {
            name: value
            for name, value in namespace.items()
            if _is_parameter(name, value) and name not in later
        }
        config = cls(**given)
        if kind is not None and config.dataset not in DATASETS[kind]:
            raise ParameterError(
                f"dataset={config.dataset!r}: this notebook takes {', '.join(DATASETS[kind])}"
            )
        if isinstance(namespace, MutableMapping) and not _history(namespace):
            namespace["_read_before"] = id(namespace), frozenset(namespace) - later
        return config

    def warmup_iterations(self) -> int:
        """Iterations of plain VAE before the introspective game: `warmup`, by default a sixteenth of the run."""
        return self.iterations // 16 if self.warmup is None else self.warmup

    def torch_device(self) -> torch.device:
        """The device of the run; "auto" is CUDA where there is one. ParameterError if the one asked for is missing."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        available = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        if not available[name.split(":")[0]]:
            raise ParameterError(
                f"device={name!r}: this machine has none; use device='auto' or 'cpu'"
            )
        device, count = torch.device(name), torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ParameterError(
                f"device={name!r}: this machine has {count} GPUs, counted from cuda:0; use device='auto'"
            )
        return device


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved parameters of a run, completed by the defaults of those that did not exist when it began.

    saved: name -> value as in JSON. A parameter that is added has one default for all kinds of data, that of its field.
    `resolution`, which once was 128 whatever the data set, becomes the size of the data set.
    """
    filled = RunConfig().model_dump(mode="json") | dict(saved)
    if filled["dataset"] != "folder" or filled["resolution"] is None:
        filled["resolution"] = RESOLUTIONS.get(filled["dataset"])
    return filled


def differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], free: Collection[str] = ()
) -> str:
    """Return what differs between two runs as "name X there, Y here", joined by commas; empty where nothing does.

    saved, wanted: name -> value as in JSON; the names of `wanted` are compared. free: names that may differ.
    """
    names = [name for name in wanted if name not in free and saved.get(name) != wanted[name]]
    return ", ".join(f"{name} {saved.get(name)!r} there, {wanted[name]!r} here" for name in names)


def _with_defaults_of_kind(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the defaults that depend on the data set, where it is one of images."""
    dataset = given.get("dataset")
    images = isinstance(dataset, str) and dataset in DATASETS["images"]
    filled = {**(IMAGE_DEFAULTS if images else {}), **given}
    if images and filled.get("resolution") is None:
        filled["resolution"] = RESOLUTIONS[str(dataset)]
    network = filled.get("feature_network")
    if isinstance(network, str) and network == "auto":
        filled["feature_network"] = "mnist-classifier" if images and dataset in DIGITS else None
    return filled


def _is_parameter(name: str, value: Any) -> bool:
    plain = isinstance(value, (str, bytes, int, float, list, tuple, dict, set)) or value is None
    own = name.startswith("_") or name in ("In", "Out")  # IPython's
    return name in RunConfig.model_fields or (plain and not own)


def _made_later(namespace: Mapping[str, Any]) -> set[str]:
    """Names that cells behind an earlier Configuration made, by IPython's history; a cell of parameters ends them.

    Without a history: all names that were not there at an earlier call.
    """
    history = _history(namespace)
    if not history:
        whose, before = namespace.get("_read_before", (None, frozenset()))
        return (
            set(namespace) - before - RunConfig.model_fields.keys()
            if whose == id(namespace)
            else set()
        )
    later: set[str] = set()
    behind = False
    for cell in history[:-1]:  # the last one is this call
        names = _assigned(cell)
        behind = "from_namespace" in cell or (behind and not names & RunConfig.model_fields.keys())
        later = later | names if behind else later - names
    return later - RunConfig.model_fields.keys()


def _history(namespace: Mapping[str, Any]) -> list[str]:
    """The cells that IPython has run, in order, the present one last."""
    return [cell for cell in namespace.get("In", []) if cell]


def _assigned(cell: str) -> set[str]:
    """Names that the code of a cell assigns."""
    try:
        nodes = list(ast.walk(ast.parse(cell)))
    except (SyntaxError, ValueError):
        return set()
    return {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


MESSAGES = {
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
        "must be a whole number, such as 1000",
    ),
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
    "string_pattern_mismatch": "must be 'auto', 'cpu', 'mps', 'cuda' or one GPU, 'cuda:0' to 'cuda:99'",  # device
    "literal_error": "must be {expected}",
    "too_short": "must have {min_length} or more entries, got {actual_length}",
    "too_long": "must have {max_length} or fewer entries, got {actual_length}",
    "missing": "must have two entries",  # adam_betas
}
"""What the errors of pydantic mean, by type."""


def _in_one_line(problem: dict[str, Any]) -> str:
    """One line for one of pydantic's errors."""
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
    if problem["type"] in ("literal_error", "string_pattern_mismatch") and (
        near := _nearest(value, message)
    ):
        message += f"; did you mean {near[0]!r}?"
    return f"{name}={short(value)}: {message}"


def _as_written(limit: Any) -> Any:
    """A limit of a range without the decimals of a whole number."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _nearest(value: Any, message: str) -> list[str]:
    """The one of the options quoted in a message that the value was probably meant to be, if any."""
    if not isinstance(value, str):
        return []
    text = value[:100].strip().lower()
    text = text.replace("gpu", "cuda") if "'cuda'" in message else text
    return difflib.get_close_matches(text, re.findall(r"'([^']*)'", message), n=1, cutoff=0.5)


_shortened = reprlib.Repr()


(
    _shortened.maxlevel,
    _shortened.maxlist,
    _shortened.maxtuple,
    _shortened.maxstring,
    _shortened.maxother,
) = 2, 16, 16, 100, 100


def short(value: Any) -> str:
    """repr of a value in one line of at most 200 characters, whatever it is."""
    try:
        text = _shortened.repr(value)
    except Exception:  # an integer of thousands of digits has no repr, and an object's own may fail
        text = f"<{type(value).__name__}>"
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= 200 else f"{text[:197]}..."
