"""Diagonal Gaussians: the posterior q(z|x) and its Kullback-Leibler divergence from the prior."""

import inspect
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


def reparameterize(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Return z = mean + exp(logvar / 2) * noise (Kingma & Welling 2014, Sec. 2.4).

    Args:
        mean: (B, n); gradients reach it.
        logvar: natural logarithm of the variance, (B, n); gradients reach it.
        noise: standard normal draws, (B, n), passed in so that the caller owns the randomness.

    Example:
        >>> reparameterize(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0.5]))
        tensor([1.5000])
    """
    return mean + (0.5 * logvar).exp() * noise


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return KL(N(mean, diag exp(logvar)) || N(0, I)) (Kingma & Welling 2014, App. B).

    Args:
        mean: (B, n).
        logvar: natural logarithm of the variance, (B, n).

    Returns:
        (B,), in nats, summed over the latent axes; never negative, and zero exactly where
        mean = logvar = 0.

    Example:
        >>> kl_to_standard_normal(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
        tensor([2.5000])
    """
    # exp(l) - 1 - l loses every digit of a small KL to cancellation; expm1(l) - l does not.
    return 0.5 * (mean.square() + logvar.expm1() - logvar).sum(-1)


def full_precision(x: Tensor) -> Tensor:
    """Return x, of any shape, at least in float32.

    Sums and differences of squares do not survive the 8 bits of bfloat16.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class _Bounded(torch.autograd.Function):
    """Clamp whose gradient stops only what would lead further out.

    The gradient of torch's clamp stops everything, and what is outside once never returns.
    """

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
    """Return x, of any shape, clamped to [low, high].

    A descent step may still bring back what is outside. Within the range value and gradient are
    those of x, bit for bit. NaN stays NaN.
    """
    found: Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found


class Gaussian(NamedTuple):
    """Diagonal Gaussian over the last axis; a tuple, so that torch.func transforms see through it.

    Attributes:
        mean: (B, n).
        logvar: natural logarithm of the variance, (B, n).

    Example:
        >>> q = Gaussian(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> q.var, q.kl()
        (tensor([[1., 1.]]), tensor([0.]))
    """

    mean: Tensor
    logvar: Tensor

    @property
    def var(self) -> Tensor:
        """The variance λ, (B, n), the square of the standard deviation."""
        return self.logvar.exp()

    def sample(self, noise: Tensor) -> Tensor:
        """Return one draw per example, (B, n), from standard normal noise (B, n)."""
        return reparameterize(self.mean, self.logvar, noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density in nats at z (..., n), summed over the last axis: (...)."""
        squares = (z - self.mean).square() / self.var
        return -0.5 * (squares + self.logvar + math.log(2 * math.pi)).sum(-1)

    def kl(self) -> Tensor:
        """Return the KL divergence from the prior N(0, I), (B,), by `kl_to_standard_normal`."""
        return kl_to_standard_normal(self.mean, self.logvar)
