"""Batch normalisation over all processes of a run, and the statistics that evaluation uses."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm
from torch.optim.swa_utils import update_bn

from asintrovae.collectives import of_all, share, sum_, world
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
    `num_batches_tracked` counts only where the statistics are means over batches, as in
    `precise_batchnorm`; in training the counter would cost a kernel in each call.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) normalised, of the same shape."""
        if not self.training:
            return super().forward(x)
        step = self._step()
        statistics = self.running_mean, self.running_var
        if world()[1] == 1:
            return batch_norm(x, *statistics, self.weight, self.bias, True, step, self.eps)
        y: Tensor
        given = x, self.weight, self.bias, self.eps
        y, mean, var = _NormOverProcesses.apply(*given)  # type: ignore[no-untyped-call]
        size = world()[1] * x.numel() // x.shape[1]
        for running, own in zip(statistics, (mean, var * (size / (size - 1))), strict=True):
            assert running is not None
            running.lerp_(own, step)
        return y

    def _step(self) -> float:
        """Return how far the running statistics move towards those of this batch, in [0, 1]."""
        if self.momentum is not None:
            return self.momentum
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        return 1 / float(self.num_batches_tracked)


class _NormOverProcesses(torch.autograd.Function):
    """Batch normalisation by the moments of all processes, one exchange each way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (B, C, H, W) normalised, and mean and variance, (C,), over all processes."""
        own_var, own_mean = torch.var_mean(full_precision(x), (0, 2, 3), correction=0)
        means, variances = of_all(torch.stack([own_mean, own_var])).unbind(1)  # (processes, C)
        var_of_means, mean = torch.var_mean(means, 0, correction=0)
        var = variances.mean(0) + var_of_means
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of the sum of all processes' losses; of the weights, the own share.

        With the normalised x̂ that of x is w/σ (g - mean g - x̂ mean(g x̂)), means over all.
        """
        x, weight, mean, inverse = ctx.saved_tensors
        g, centred = full_precision(gradient), full_precision(x) - mean[:, None, None]
        sums = torch.stack([g.sum((0, 2, 3)), (g * centred).sum((0, 2, 3)) * inverse])
        mean_g, mean_of_product = sum_(sums * (x.shape[1] / (world()[1] * x.numel())))
        slope, scale = inverse * mean_of_product, weight * inverse
        of_x = torch.addcmul(g - mean_g[:, None, None], centred, slope[:, None, None], value=-1)
        return (of_x * scale[:, None, None]).to(x.dtype), sums[1], sums[0], None
