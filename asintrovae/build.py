"""From the parameters of a run to its objects."""

import dataclasses

import torch

from asintrovae.config import RunConfig
from asintrovae.data import DENSITIES, ImageData, ToyData, load_images, toy_density
from asintrovae.networks import GAN, Autoencoder, conv_autoencoder, conv_gan, mlp_autoencoder, mlp_gan
from asintrovae.objectives import VAE, WGANGP, ASIntroVAE, IntroVAE, Objective, SoftIntroVAE
from asintrovae.randomness import generator_for

OBJECTIVES: dict[str, type] = {
    "vae": VAE,
    "intro": IntroVAE,
    "soft_intro": SoftIntroVAE,
    "as_intro": ASIntroVAE,
    "wgan_gp": WGANGP,
}


def build_data(config: RunConfig) -> ToyData | ImageData:
    """The data set of the run, batches on its device.

    Raises FileNotFoundError where its files are missing, ValueError for unreadable ones with config.strict_images.
    """
    device = config.torch_device()
    if config.dataset in DENSITIES:
        return ToyData(toy_density(config.dataset), config.batch_size, config.seed, device)
    return load_images(config, device)


def build_model(config: RunConfig, shape: tuple[int, ...]) -> Autoencoder | GAN:
    """Freshly initialised networks for examples of this shape, on the device of the run; the seed fixes the weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(config.seed, "init").initial_seed())
        if len(shape) == 1:
            build = mlp_gan if config.model == "wgan_gp" else mlp_autoencoder
            model: Autoencoder | GAN = build(shape[0], config.latent_dim, config.widths)
        else:
            build_conv = conv_gan if config.model == "wgan_gp" else conv_autoencoder
            model = build_conv(shape, config.latent_dim, config.widths)
    return model.to(config.torch_device())


def build_objective(config: RunConfig) -> Objective:
    """The objective of the run, each of its fields from the parameter of the same name."""
    objective = OBJECTIVES[config.model]
    parameters = {field.name: getattr(config, field.name) for field in dataclasses.fields(objective)}
    return objective(**parameters)  # type: ignore[no-any-return]
