"""From the parameters of a run to its objects."""

import dataclasses
import math
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from asintrovae.collectives import world
from asintrovae.config import ParameterError, RunConfig
from asintrovae.data import (
    DENSITIES,
    ImageData,
    ToyData,
    example_shape,
    load_images,
    toy_density,
)
from asintrovae.randomness import generator_for
from asintrovae.theory.networks import (
    GAN,
    Autoencoder,
    conv_autoencoder,
    conv_gan,
    mlp_autoencoder,
    mlp_gan,
)
from asintrovae.theory.objectives import (
    VAE,
    WGANGP,
    ASIntroVAE,
    IntroVAE,
    Objective,
    SoftIntroVAE,
    WithWarmup,
)
from asintrovae.threads import processors

SMALLEST_SHARED = 2**17
"""Numbers in the first activations of a batch below which one thread computes it.

Measured on two processors as the time of an iteration with two threads over that with one. Points:
0.6 (512 points, 3 x 256) to 1.0 (64 points, 2 x 128) with nothing else running, 2.8 to 7 beside one
busy program, up to 200 beside several. Images, with nothing else running: 0.9 and 0.8 for 2**15
numbers, 0.64 for 2**18, 0.5 for 2**22; beside one busy program 5, 4, 3 and 1.6.
"""

OBJECTIVES: dict[str, type] = {
    "vae": VAE,
    "intro": IntroVAE,
    "soft_intro": SoftIntroVAE,
    "as_intro": ASIntroVAE,
    "wgan_gp": WGANGP,
}


def build_data(config: RunConfig) -> ToyData | ImageData:
    """Return the data set of the run, with batches on its device.

    Args:
        config: parameters of the run.

    Returns:
        Object with `shape` (of one example), `batch(i)` and `evaluation(count)`.

    Raises:
        ParameterError: where run_dir is a file or below one, and where the run cannot fit into the
            memory, before any image is decoded.
        FileNotFoundError: where files of the data set are missing.
        ValueError: for unreadable files with config.strict_images.

    Example:
        >>> data = build_data(RunConfig(dataset="rings", batch_size=64, device="cpu"))
        >>> data.batch(0).shape
        torch.Size([64, 2])
    """
    device = config.torch_device()
    check_file(config.run_dir)
    check_giant(config)
    if config.dataset in DENSITIES:
        return ToyData(toy_density(config.dataset), config.batch_size, config.seed, device)
    return load_images(config, device)


def build_model(config: RunConfig, shape: tuple[int, ...]) -> Autoencoder | GAN:
    """Return freshly initialised networks on the device of the run; the seed fixes the weights.

    Args:
        config: parameters of the run.
        shape: of one example, (2,) for points, (C, H, W) for images.

    Returns:
        An autoencoder, or for the model "wgan_gp" a generator and a critic.

    Raises:
        ValueError: for widths that do not fit the shape.
        ParameterError: where the weights alone exceed the memory.

    Example:
        >>> network = build_model(RunConfig(latent_dim=3, device="cpu"), (2,))
        >>> network.decode(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    device = config.torch_device()
    check_too_large({sizes(config): weights(config, shape)}, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(config.seed, "init").initial_seed())
        return new_model(config, shape).to(device)


def new_model(config: RunConfig, shape: tuple[int, ...]) -> Autoencoder | GAN:
    """Return networks for examples of this shape, initialised by torch's default generator.

    They are on torch's default device.
    """
    if len(shape) == 1:
        if config.model == "wgan_gp":
            return mlp_gan(shape[0], config.latent_dim, config.widths, config.fourier_features)
        return mlp_autoencoder(
            shape[0], config.latent_dim, config.widths, config.decoder_std, config.fourier_features
        )
    build_conv = conv_gan if config.model == "wgan_gp" else conv_autoencoder
    return build_conv(shape, config.latent_dim, config.widths)


def build_objective(config: RunConfig) -> Objective:
    """Return the objective of a run; each of its fields has the parameter of the same name.

    Args:
        config: parameters of the run; `config.model` names the class, one of OBJECTIVES.

    Returns:
        A frozen dataclass. Its warm-up is not part of it: `train` adds that by `with_warmup`.

    Example:
        >>> build_objective(RunConfig(model="vae", beta_kl=0.5))
        VAE(beta_rec=0.2, beta_kl=0.5, kl_annealing=0.0)
    """
    objective = OBJECTIVES[config.model]
    fields = dataclasses.fields(objective)
    parameters = {field.name: getattr(config, field.name) for field in fields}
    return objective(**parameters)  # type: ignore[no-any-return]


def with_warmup(objective: Objective, model: nn.Module, config: RunConfig) -> WithWarmup:
    """Return the objective preceded by the warm-up of the run, a plain VAE with its weights.

    Args:
        objective: of the run, with any class; one that has a warm-up is returned as it is.
        model: a warm-up needs an `encoder` and a `decoder`; for other models it has 0 iterations.
        config: gives β_rec, β_kl, the annealing and `config.warmup_iterations()`.
    """
    if isinstance(objective, WithWarmup):
        return objective
    warmup = VAE(config.beta_rec, config.beta_kl, config.kl_annealing)
    autoencoder = hasattr(model, "encoder") and hasattr(model, "decoder")
    return WithWarmup(objective, warmup, config.warmup_iterations() if autoencoder else 0)


def threads_for(config: RunConfig, batch_size: int | None = None) -> int:
    """Return how many threads a process of the run computes with.

    It is config.threads, where that is given. Else it is torch's own number where OMP_NUM_THREADS
    is set. Else it is one for points and for small batches of images, whose threads would wait
    longer than they compute, and for others the processors that this process may use, shared by
    config.devices, at most torch's own number.

    Args:
        config: parameters of the run.
        batch_size: examples in a batch of one process; without it its share of config.batch_size.
    """
    if config.threads is not None:
        return config.threads
    present = torch.get_num_threads()
    if os.environ.get("OMP_NUM_THREADS"):
        return present
    batch_size = config.batch_size // config.devices if batch_size is None else batch_size
    channels, *pixels = config.widths[0], *example_shape(config)[1:]
    if not pixels or batch_size * channels * math.prod(pixels) < SMALLEST_SHARED:
        return 1
    return max(1, min(present, processors() // config.devices))


def check_file(run_dir: str) -> None:
    """Raise ParameterError where a file stands in the place of run_dir or of a folder above it."""
    for path in (Path(run_dir), *Path(run_dir).parents):
        if path.exists():
            if not path.is_dir():
                raise ParameterError(
                    f"run_dir={run_dir!r}: {str(path)!r} is a file, a run needs a folder; name one"
                )
            return


def check_giant(config: RunConfig) -> None:
    """Raise ParameterError for a run that certainly needs more memory than there is.

    It is raised before any memory is asked for. Counted are the weights with their gradients and
    Adam's moments, one batch with its noise and first activations, the Gram matrix of the
    AS-Distance, and for processes on the CPU what torch itself takes. A run takes several times as
    much.
    """
    shape, device = example_shape(config), config.torch_device()
    processes = config.devices if device.type == "cpu" and world()[1] == 1 else 1
    share = config.batch_size // config.devices
    example = math.prod(shape) + 4 * config.latent_dim + config.widths[0] * math.prod(shape[1:])
    gram = config.batch_size**2 if config.model == "as_intro" and config.c != 1 else 0
    needs = {
        sizes(config): 4 * processes * weights(config, shape),
        f"batch_size={config.batch_size}{resolution(config)}": processes * (share * example + gram),
        f"devices={config.devices}": 50_000_000 * processes,
    }
    check_too_large(needs, device)


def check_too_large(needs: dict[str, int], device: torch.device) -> None:
    """Raise ParameterError, naming the largest part, where a run needs more than the device holds.

    Args:
        needs: part -> floats.
        device: of the run.
    """
    needed, available = 4 * sum(needs.values()), memory(device)
    if needed > available:
        part = max(needs, key=lambda name: needs[name])
        what = f"{part}: the run needs more than {needed / 2**30:.0f} GiB of memory"
        raise ParameterError(f"{what}, {device.type} has {available / 2**30:.0f}; make it smaller")


def sizes(config: RunConfig) -> str:
    """Return the parameters that say how many weights there are."""
    return f"widths={config.widths}, latent_dim={config.latent_dim}{resolution(config)}"


def resolution(config: RunConfig) -> str:
    """Return the size of the images where the run may choose it."""
    return f", resolution={config.resolution}" if config.dataset == "folder" else ""


def weights(config: RunConfig, shape: tuple[int, ...]) -> int:
    """Return the number of weights for examples of this shape; none of them is made."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return sum(parameter.numel() for parameter in new_model(config, shape).parameters())


def memory(device: torch.device) -> float:
    """Return the bytes of memory of a device, of the container where it has less.

    Infinite where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = math.inf
    with suppress(AttributeError, ValueError, OSError):
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # "max" where there is no limit
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found
