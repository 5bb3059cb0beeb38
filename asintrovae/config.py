"""Every parameter of a run, in one place, validated before anything else happens."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

ModelName = Literal["vae", "intro", "soft_intro", "as_intro", "wgan_gp"]
PointsName = Literal["8gaussians", "25gaussians", "checkerboard", "2spirals", "rings"]
ImagesName = Literal["mnist-subset", "mnist", "cifar10", "celeba128", "celeba256", "pet128", "flowers64", "flowers128", "folder"]
DatasetName = Literal[PointsName, ImagesName]
DATASETS = {"points": get_args(PointsName), "images": get_args(ImagesName)}
"""Names of the data sets, by kind."""


class ParameterError(ValueError):
    """A parameter that does not exist or does not fit; its message is one line."""


def _number(value: Any) -> Any:
    if isinstance(value, (bool, bytes)):  # Python takes True for 1, a typing error in a parameter file
        raise ValueError("must be a number, not bytes" if isinstance(value, bytes) else "must be a number, not true or false")
    return value


def _list(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):  # a set has no order, and a generator may have no end
        raise ValueError("must be a list, such as [128, 128]")
    return value


def _path(value: str) -> str:
    if "\0" in value or any(len(part.encode()) > 255 for part in value.split("/")):
        raise ValueError("is no path: NUL is not allowed, nor is a name of more than 255 bytes")
    return value


Number, List = BeforeValidator(_number), BeforeValidator(_list)
Count = Annotated[int, Field(ge=1, le=10**9), Number]
Size = Annotated[int, Field(ge=1, le=2**16), Number]
Weight = Annotated[float, Field(ge=0, le=1e9), Number]
Share = Annotated[float, Field(ge=0, le=1), Number]
Decay = Annotated[float, Field(ge=0, lt=1), Number]
PathName = Annotated[str, Field(strict=True, min_length=1, max_length=1000), AfterValidator(_path)]


class RunConfig(BaseModel):
    """Parameters of one run; the defaults are the laptop protocol on 8 Gaussians, setting C1, about a minute.

    The training notebooks list every parameter with its meaning. Raises ParameterError, in one line that names the
    parameter, its value and the way out, for unknown names (with the nearest known one), wrong types and values out of
    range. Numbers may come as strings, as papermill's -r passes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    model: ModelName = "as_intro"
    dataset: DatasetName = "8gaussians"
    data_dir: PathName | None = None
    download: bool = False
    resolution: Annotated[int, Field(ge=8, le=4096), Number] = 128
    mirror: bool = False
    fit: Literal["crop", "squeeze"] = "crop"
    strict_images: bool = False
    workers: Annotated[int, Field(ge=0, le=256), Number] | None = None
    latent_dim: Size = 2
    decoder_std: Weight = 0.0
    widths: Annotated[tuple[Size, ...], Field(min_length=1, max_length=16), List] = (128, 128)
    fourier_features: Annotated[int, Field(ge=0, le=2**16), Number] = 0
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
    critic_steps: Annotated[int, Field(ge=1, le=1000), Number] = 5
    iterations: Count = 8000
    warmup: Annotated[int, Field(ge=0, le=10**9), Number] | None = None
    batch_size: Annotated[int, Field(ge=1, le=2**20), Number] = 256
    learning_rate: Annotated[float, Field(gt=0, le=1), Number] = 1e-3
    adam_betas: Annotated[tuple[Decay, Decay], List] = (0.9, 0.999)
    milestones: Annotated[tuple[Count, ...], Field(max_length=1000), List] = ()
    ema: Decay = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63), Number] = 0
    device: Annotated[str, Field(strict=True, pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$")] = "auto"
    devices: Annotated[int, Field(ge=1, le=1024), Number] = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = False
    compile: bool = False
    threads: Annotated[int, Field(ge=1, le=1024), Number] | None = None
    evaluation_samples: Annotated[int, Field(ge=2, le=10**7), Number] = 5000
    feature_network: Literal["mnist-classifier", "inception"] | None = None
    fid_weights: PathName | None = None
    fid_precision: Literal["32-true", "bf16-mixed"] = "32-true"
    log_every: Count = 100
    checkpoint_every: Count = 1000
    run_dir: PathName = "runs/toy"

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            problems = [_in_one_line(dict(problem)) for problem in error.errors(include_url=False)]
            more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
            raise ParameterError("; ".join(problems[:5] + more)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup is not None and self.warmup > self.iterations:
            raise ValueError(f"warmup={self.warmup} exceeds iterations={self.iterations}; lower it or leave it out")
        anneals = self.model == "as_intro" and self.c is None and self.c_schedule == "linear"
        if anneals and 5 * self.warmup_iterations() >= self.iterations > 1:
            raise ValueError(
                f"warmup={self.warmup} leaves nothing of the annealing: c reaches 1 after {self.iterations // 5} of "
                f"iterations={self.iterations}, before the game begins; shorten warmup or fix c in [0, 1]"
            )
        if self.dataset == "folder" and self.data_dir is None:
            raise ValueError("dataset='folder' needs data_dir, the folder that holds the images, got data_dir=None")
        if self.batch_size % self.devices:
            raise ValueError(
                f"devices={self.devices} cannot share batch_size={self.batch_size} equally; make batch_size a multiple of devices"
            )
        if self.devices > 1 and ":" in self.device:
            raise ValueError(f"device={self.device!r} is one GPU, but devices={self.devices}; use device='cuda'")
        if self.channels_last and self.dataset in DATASETS["points"]:
            raise ValueError(f"channels_last=True is for images, but dataset={self.dataset!r}; leave it out")
        if self.fourier_features and self.dataset in DATASETS["images"]:
            raise ValueError(
                f"fourier_features={self.fourier_features} is for points, but dataset={self.dataset!r}; leave it out"
            )
        if self.decoder_std and (self.dataset not in DATASETS["points"] or self.model == "wgan_gp" or self.latent_dim < 3):
            given = f"dataset={self.dataset!r}, model={self.model!r} and latent_dim={self.latent_dim}"
            raise ValueError(
                f"decoder_std={self.decoder_std} takes the last two latent axes of an autoencoder of points for its noise, "
                f"which {given} do not allow; use decoder_std=0, or an autoencoder of points with latent_dim of at least 3"
            )
        if self.model == "as_intro" and self.estimator == "u" and self.batch_size < 2:
            raise ValueError("estimator='u' needs batch_size of at least 2, got batch_size=1; use estimator='v'")
        if self.distance_reduction == "sum" and self.estimator == "u":
            raise ValueError("distance_reduction='sum' takes all pairs, but estimator='u' leaves some out; use estimator='v'")
        return self

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        if self.feature_network is None:
            return self
        given = f"feature_network={self.feature_network!r}"
        if self.dataset in DATASETS["points"]:
            raise ValueError(f"{given} looks at images, dataset={self.dataset!r} is points; use feature_network=None")
        if self.feature_network == "mnist-classifier" and self.dataset not in ("mnist", "mnist-subset"):
            raise ValueError(f"{given} knows digits only, not dataset={self.dataset!r}; use feature_network='inception' or None")
        if self.evaluation_samples < 4:
            raise ValueError(f"{given} needs evaluation_samples of at least 4, got {self.evaluation_samples}")
        return self

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any], kind: str | None = None) -> Self:
        """Parameters from the variables of a notebook, as its `parameters` cell and papermill leave them.

        Call it as `RunConfig.from_namespace(globals())`: besides the known names every variable that holds text, a
        number, None, a list or a mapping is taken for a parameter, so that a misspelt one is noticed; names with a leading
        underscore are the notebook's own. kind: "points" or "images", the data sets the notebook can draw; None is any.
        """
        config = cls(**{name: value for name, value in namespace.items() if _is_parameter(name, value)})
        if kind is not None and config.dataset not in DATASETS[kind]:
            raise ParameterError(f"dataset={config.dataset!r}: this notebook takes {', '.join(DATASETS[kind])}")
        return config

    def warmup_iterations(self) -> int:
        """Iterations of plain VAE before the introspective game: `warmup`, by default a sixteenth of the run."""
        return self.iterations // 16 if self.warmup is None else self.warmup

    def torch_device(self) -> torch.device:
        """The device of the run; "auto" is CUDA where there is one. ParameterError if the one asked for is missing."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if not available[name.split(":")[0]]:
            raise ParameterError(f"device={name!r}: this machine has none; use device='auto' or 'cpu'")
        device, count = torch.device(name), torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ParameterError(f"device={name!r}: this machine has {count} GPUs, counted from cuda:0; use device='auto'")
        return device


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved parameters of a run with the defaults of those that did not exist when it began."""
    return RunConfig().model_dump(mode="json") | dict(saved)


def _is_parameter(name: str, value: Any) -> bool:
    plain = isinstance(value, (str, bytes, int, float, list, tuple, dict, set)) or value is None
    own = name.startswith("_") or name in ("In", "Out")  # IPython's
    return name in RunConfig.model_fields or (plain and not own)


def _in_one_line(problem: dict[str, Any]) -> str:
    """One line for one of pydantic's errors."""
    if not problem["loc"]:  # from _consistent, which names its parameters itself
        return str(problem["ctx"]["error"])
    name, value = str(problem["loc"][0]), short(problem["input"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name[:100], RunConfig.model_fields, n=1, cutoff=0.0)
        return f"unknown parameter {short(name)} (value {value}); did you mean {near[0]!r}?"
    message = (
        problem["msg"].removeprefix("Value error, ").replace("Input should", "should").replace("Field required", "too short")
    )
    return f"{name}={value}: {message}"


_shortened = reprlib.Repr()
_shortened.maxlevel, _shortened.maxlist, _shortened.maxtuple, _shortened.maxstring, _shortened.maxother = 2, 16, 16, 100, 100


def short(value: Any) -> str:
    """repr of a value in one line of at most 200 characters, whatever it is."""
    try:
        text = _shortened.repr(value)
    except Exception:  # an integer of thousands of digits has no repr, and an object's own may fail
        text = f"<{type(value).__name__}>"
    text = re.sub(r"\s*\n\s*", " ", text)
    return text if len(text) <= 200 else f"{text[:197]}..."
