"""Diagonal Gaussians: the posterior q(z|x), and the only place where its Kullback-Leibler divergence is written."""

import inspect
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


def reparameterize(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Draw z = mean + exp(logvar / 2) * noise, differentiable in mean and logvar (Kingma & Welling 2014, Sec. 2.4).

    All three are (B, n); `noise` holds standard normal draws, passed in so that the caller owns the randomness.
    """
    return mean + (0.5 * logvar).exp() * noise


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, diag exp(logvar)) || N(0, I)) in nats, summed over the latent axes: (B, n), (B, n) -> (B,).

    Kingma & Welling 2014, App. B. Never negative; zero exactly when mean = logvar = 0.
    """
    # expm1(l) - l rather than exp(l) - 1 - l: the latter loses every digit of a small KL to cancellation.
    return 0.5 * (mean.square() + logvar.expm1() - logvar).sum(-1)


def full_precision(x: Tensor) -> Tensor:
    """x of any shape, at least float32: sums and differences of squares do not survive the 8 bits of bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _Bounded(torch.autograd.Function):
    """Clamp whose gradient stops only what would lead further out; torch's stops all, and what is out once never returns."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output - inputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (way_back,) = ctx.saved_tensors
        return gradient.masked_fill(way_back * gradient > 0, 0), None, None


# torch looks at the signature in every call, which costs more than the clamp
_Bounded.forward.__signature__ = inspect.signature(_Bounded.forward)  # type: ignore[attr-defined]


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """x of any shape, clamped to [low, high]; a descent step may still bring back what is outside. NaN stays NaN.

    Within the range value and gradient are those of x, bit for bit.
    """
    found: Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found


class Gaussian(NamedTuple):
    """Diagonal Gaussian over the last axis; a tuple, so that torch.func transforms see through it.

    mean: (B, n). logvar: (B, n), natural logarithm of the variance.
    """

    mean: Tensor
    logvar: Tensor

    @property
    def var(self) -> Tensor:
        """Variance λ, (B, n): the square of the standard deviation."""
        return self.logvar.exp()

    def sample(self, noise: Tensor) -> Tensor:
        """One draw per example, (B, n), by `reparameterize`."""
        return reparameterize(self.mean, self.logvar, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats at z (..., n), summed over the last axis: (...)."""
        return -0.5 * (
            (z - self.mean).square() / self.var + self.logvar + math.log(2 * math.pi)
        ).sum(-1)

    def kl(self) -> Tensor:
        """KL to the prior N(0, I), (B,), by `kl_to_standard_normal`."""
        return kl_to_standard_normal(self.mean, self.logvar)
