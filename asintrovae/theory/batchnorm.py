"""Batch normalisation over all processes of a run, and the statistics that evaluation uses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from asintrovae.collectives import SumOverProcesses, share, world
from asintrovae.randomness import generator_for
from asintrovae.theory.gaussian import Gaussian, full_precision


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold the model in evaluation mode without gradients; the former mode returns afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


STATISTICS_BATCHES = 10
"""Batches that `precise_batchnorm` averages over."""


@torch.no_grad()
def precise_batchnorm(
    halves: Mapping[str, nn.Module], batch: Callable[[int], Tensor], latent_dim: int, seed: int
) -> None:
    """Set the statistics that BatchNorm uses in evaluation mode, from weights and fixed batches.

    In training every call normalises with its own batch, real, reconstructed or generated, as
    published. The running averages that PyTorch keeps meanwhile mix the three kinds and depend on
    the last of them. Training never reads them, so they are replaced by means over fixed batches
    ("precise BatchNorm", Wu & Johnson 2021) of what evaluation asks for:
    in the encoder real images; in the decoder posterior samples of real images together with as
    many prior samples, since one network has to reconstruct and to generate; in a generator prior
    samples.

    Args:
        halves: modules by name; "encoder", "decoder" and "generator" are used.
        batch: number of a batch -> real images (B, ...).
        latent_dim: n.
        seed: of the latents, ≥ 0.
    """
    encoder, numbers = halves.get("encoder"), range(STATISTICS_BATCHES)
    if encoder is not None:
        update_bn(map(batch, numbers), encoder)
    for name in ("decoder", "generator"):
        if name in halves:
            latents = (
                _latents(encoder, batch(i), latent_dim, generator_for(seed, "statistics", i))
                for i in numbers
            )
            update_bn(latents, halves[name])


def _latents(
    encoder: nn.Module | None, x: Tensor, latent_dim: int, generator: torch.Generator
) -> Tensor:
    """Return prior samples (B, n), with an encoder behind as many posterior samples of x (B, ...).

    The encoder is in evaluation mode.
    """
    whole = len(x) * world()[1]  # the batch of all processes
    drawn = torch.randn(2, whole, latent_dim, generator=generator)
    prior, noise = (share(part).to(x) for part in drawn)
    if encoder is None:
        return prior
    with evaluating(encoder):
        posterior: Gaussian = encoder(x)
    return torch.cat([posterior.sample(noise), prior])


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the examples of all processes.

    A run then does not depend on their number. torch's SyncBatchNorm does the same on CUDA alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) normalised, of the same shape."""
        count = world()[1]
        if count == 1 or not self.training:
            return super().forward(x)
        wide = full_precision(x)
        mean: Tensor = SumOverProcesses.apply(wide.mean((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        centred = wide - mean[:, None, None]
        var: Tensor = SumOverProcesses.apply(centred.square().mean((0, 2, 3))) / count  # type: ignore[no-untyped-call]
        self._track(mean.detach(), var.detach(), count * x.numel() // x.shape[1])
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, var: Tensor, size: int) -> None:
        """Move the running statistics towards those of a batch of `size` numbers per channel."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(var * size / (size - 1), step)
