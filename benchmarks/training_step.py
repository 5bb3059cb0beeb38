"""An iteration of training against plain eager code of the same work, its own bare arithmetic, and
the machine at its best."""

import io
import itertools
import math
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from asintrovae import RunConfig, build_data, build_model, build_objective
from asintrovae.running.loop import Loop, only_learning
from asintrovae.theory.objectives.base import above_rounding
from benchmarks.measuring import alternate, in_another_process

MODELS = ("vae", "intro", "soft_intro", "as_intro", "wgan_gp")
WEIGHTS = {"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9}  # C1 of 8 Gaussians
REFERENCE = {"widths": (256,) * 4, "batch_size": 512, "learning_rate": 2e-4, "iterations": 30_000}
LAPTOP = {"widths": (128, 128), "batch_size": 256, "iterations": 8_000}
DIGITS = {
    "dataset": "mnist-subset",
    "latent_dim": 32,
    "widths": (16, 32),
    "batch_size": 32,
    "iterations": 1_122,
}
PUBLISHED_DIGITS = DIGITS | {"widths": (64, 128), "batch_size": 128, "iterations": 70_000}
FAST = {"precision": "bf16-mixed", "channels_last": True, "compile": True}


def loop_of(device: str = "cpu", **parameters: Any) -> Loop:
    """A run before its first iteration. What it would save goes nowhere."""
    config = RunConfig(
        **{**WEIGHTS, "warmup": 0, "run_dir": tempfile.gettempdir(), "device": device, **parameters}
    )
    data = build_data(config)
    model = build_model(config, data.shape)
    loop = Loop(model.train(), build_objective(config), data, config)
    loop.save = lambda done, at_once=False: True  # type: ignore[method-assign]
    return loop


def iterating(loop: Loop) -> Callable[[], Any]:
    """A call that does the next iteration, as the loop does it, without what the loop does around
    it."""
    numbers = itertools.count()
    return lambda: loop.iterate(next(numbers))


def points(batch_size: int) -> Tensor:
    """A batch of 8 Gaussians, (B, 2), drawn point by point."""
    centers = [
        (math.sqrt(2) * math.cos(k * math.pi / 4), math.sqrt(2) * math.sin(k * math.pi / 4))
        for k in range(8)
    ]
    batch = []
    for _ in range(batch_size):
        point, center = np.random.randn(2) * 0.02 / math.sqrt(2), random.choice(centers)
        point[0] += center[0]
        point[1] += center[1]
        batch.append(point)
    return torch.from_numpy(np.array(batch, dtype="float32"))


def toy_halves(width: int, latent_dim: int = 2) -> tuple[nn.Module, nn.Module]:
    """Encoder (B, 2) -> (B, 2 n) and decoder (B, n) -> (B, 2) of four hidden layers."""

    def layers(size_in: int, size_out: int) -> nn.Sequential:
        hidden = [part for _ in range(3) for part in (nn.Linear(width, width), nn.ReLU())]
        return nn.Sequential(
            nn.Linear(size_in, width), nn.ReLU(), *hidden, nn.Linear(width, size_out)
        )

    return layers(2, 2 * latent_dim), layers(latent_dim, 2)


class Eager:
    """An iteration of S-IntroVAE as published, written from its equations: every term is evaluated,
    and one more to look at.

    The fakes of the encoder phase are made a second time in the decoder phase, from the same
    latents. draw: makes a batch.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, draw: Callable[[], Tensor], latent_dim: int
    ) -> None:
        self.encoder, self.decoder, self.draw, self.latent_dim = encoder, decoder, draw, latent_dim
        self.optimizers = [
            Adam(half.parameters(), REFERENCE["learning_rate"]) for half in (encoder, decoder)
        ]
        self.beta_rec, self.beta_kl, self.beta_neg = WEIGHTS.values()
        self.alpha, self.gamma_r = 2.0, 1e-8

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, (B, n) each."""
        found = self.encoder(x)
        mean, logvar = found.chunk(2, 1) if isinstance(found, Tensor) else found
        return mean, logvar

    def learn(self, half: int, loss: Tensor) -> None:
        """A step of one half."""
        self.optimizers[half].zero_grad()
        loss.backward()
        self.optimizers[half].step()

    def freeze(self, encoder: bool, decoder: bool) -> None:
        """Say which half gets no gradients."""
        self.encoder.requires_grad_(not encoder)
        self.decoder.requires_grad_(not decoder)

    def __call__(self) -> list[float]:
        """One iteration; its losses and what is looked at."""
        x = self.draw()
        kappa, prior = 1 / x[0].numel(), torch.randn(len(x), self.latent_dim, device=x.device)
        self.freeze(encoder=False, decoder=True)
        x_g, q = self.decoder(prior), self.encode(x)
        z = sampled(q)
        x_r = self.decoder(z)
        looked_at = error(x, self.decoder(self.encode(x)[0]).detach()).mean()
        loss_e = kappa * (self.beta_rec * error(x, x_r) + self.beta_kl * divergence(q)).mean()
        for fake in (x_g, x_r):  # as published, the error's gradient reaches the fake, too
            q_s = self.encode(fake.detach())
            elbo = -kappa * (
                self.beta_rec * error(fake, self.decoder(sampled(q_s)))
                + self.beta_neg * divergence(q_s)
            )
            loss_e = loss_e + (self.alpha * elbo).exp().mean() / (2 * self.alpha)
        self.learn(0, loss_e)
        self.freeze(encoder=True, decoder=False)
        x_g, x_r = self.decoder(prior), self.decoder(z.detach())
        loss_d = self.beta_rec * error(x, x_r).mean()
        for fake in (x_g, x_r):
            q_s = self.encode(fake)
            again = error(fake.detach(), self.decoder(sampled(q_s).detach()))
            loss_d = (
                loss_d
                + 0.5
                * (self.beta_kl * divergence(q_s) + self.gamma_r * self.beta_rec * again).mean()
            )
        loss_d = kappa * loss_d
        self.learn(1, loss_d)
        return [value.item() for value in (loss_e, loss_d, looked_at)]


def sampled(q: tuple[Tensor, Tensor]) -> Tensor:
    """z ~ q, (B, n)."""
    return q[0] + (0.5 * q[1]).exp() * torch.randn_like(q[0])


def divergence(q: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q || N(0, I)), (B,)."""
    mean, logvar = q
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1)


def error(x: Tensor, x_hat: Tensor) -> Tensor:
    """Summed squared error, (B,)."""
    return ((x - x_hat) ** 2).flatten(1).sum(1)


def operations(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def largest_costs(call: Callable[[], Any], count: int = 3) -> dict[str, float]:
    """The operations that take most of a call's time, with their shares of it."""
    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as found:
        call()
    rows = self_times(found.key_averages())
    most = sorted(rows, key=lambda name: -rows[name])[:count]
    return {name: rows[name] / sum(rows.values()) for name in most}


def self_times(averages: Iterable[Any]) -> dict[str, float]:
    """Time of each operation: on the GPU, or on the CPU where the call left the GPU alone."""
    averages = list(averages)
    rows = {row.key: float(row.self_device_time_total) for row in averages}
    if any(rows.values()):
        return rows
    return {row.key: float(row.self_cpu_time_total) for row in averages}


def against_published(seconds: float = 20.0) -> dict[str, Any]:
    """The toy protocol of the papers' size: ours, ours with the term of γ_r, and the published
    loop's work."""
    side = torch.randn(1024, 1024)
    calls: dict[str, Callable[[], Any]] = {
        "published": Eager(*toy_halves(256), lambda: points(512), 2),
        "ours": iterating(loop_of(model="soft_intro", **REFERENCE)),
        "ours, every term": iterating(loop_of(model="soft_intro", gamma_r=1e-6, **REFERENCE)),
    }
    assert not above_rounding(RunConfig().gamma_r, torch.float32)  # else the last two are the same
    work = {name: operations(call) for name, call in calls.items()}
    times = alternate(
        {**calls, "matmul": lambda: side @ side, "points": lambda: points(512)}, seconds
    )
    peak = 2 * 1024**3 / times["matmul"]
    print("\ntoy protocol of the papers' size: 4 x 256, B = 512, S-IntroVAE")
    rows = {}
    for name in calls:
        share = work[name] / times[name] / peak
        rows[name] = {"seconds": times[name], "operations": work[name], "share_of_peak": share}
        ratio = times["published"] / times[name]
        print(
            f"{name:17s} {1e3 * times[name]:8.2f} ms  {work[name] / 1e9:5.2f} GFLOP  "
            f"{share:4.0%} of peak  {ratio:5.2f} times",
            end="",
        )
        print(" the published loop's work" if name == "published" else "")
    costs = largest_costs(calls["ours"])
    print(
        f"at best {peak / 1e9:.0f} GFLOP/s; "
        f"drawing point by point {1e3 * times['points']:.2f} ms; largest costs of ours:",
        end=" ",
    )
    print(", ".join(f"{name} {share:.0%}" for name, share in costs.items()))
    return {"rows": rows, "peak": peak, "points_seconds": times["points"], "costs": costs}


def bare(loop: Loop, count: int) -> None:
    """Iterations of draws, losses, gradients and steps, and nothing else."""
    for i in range(count):
        for phase, x, noise in loop.draw(i):
            with only_learning(loop.model, phase.learns):
                loss = phase.loss(loop.called, x, noise, i / loop.config.iterations)[0]
                for half in phase.learns:
                    loop.optimizers[half].zero_grad()
                loss.backward()
            for half in phase.learns:
                loop.optimizers[half].step()


def overhead(model: str, protocol: dict[str, Any], count: int, seconds: float) -> dict[str, Any]:
    """What logging, the moving average, the guard and the progress bar add to `count` iterations;
    logged once among them."""
    given = {
        "model": model,
        **protocol,
        "iterations": count,
        "log_every": count,
        "checkpoint_every": count,
        "c": 0.5,
    }
    plain, whole = loop_of(**given), loop_of(**given, ema=0.999)
    with redirect_stderr(io.StringIO()):  # the bar is drawn, not shown
        times = alternate(
            {"bare": lambda: bare(plain, count), "loop": lambda: whole.run(model)}, seconds
        )
    share = times["loop"] / times["bare"] - 1
    row = {"model": model, "widths": protocol["widths"], "batch_size": protocol["batch_size"]}
    shape = f"{len(row['widths'])} x {row['widths'][0]}, B = {row['batch_size']}"
    print(
        f"{model:10s} {shape:18s} {1e3 * times['bare'] / count:8.2f} ms bare  "
        f"loop adds {share:6.1%}",
        flush=True,
    )
    return row | {
        "bare_seconds": times["bare"] / count,
        "loop_seconds": times["loop"] / count,
        "overhead": share,
    }


def measure_compiled(protocol: str) -> None:
    """The other end of `compiled`: seconds of the first iterations that compile, then of one,
    compiled and not."""
    torch._inductor.config.force_disable_caches = True  # type: ignore[attr-defined]
    given = {"toy": REFERENCE, "digits": DIGITS}[protocol]
    fused, eager = (
        iterating(loop_of(model="soft_intro", compile=on, **given)) for on in (True, False)
    )
    start = time.perf_counter()
    fused()
    fused()
    once = time.perf_counter() - start
    times = alternate({"fused": fused, "eager": eager}, seconds=6.0)
    print(once - 2 * times["fused"], times["fused"], times["eager"])


def compiled(protocol: str, iterations: int) -> dict[str, Any] | None:
    """From how many iterations on torch.compile pays; None where there is no compiler."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        print(f"{protocol:10s} no compiler")
        return None
    once, fused, eager = map(
        float, in_another_process("benchmarks.training_step", protocol).split()
    )
    breaks_even = once / (eager - fused) if eager > fused else math.inf
    verdict = f"pays after {breaks_even:,.0f} iterations" if eager > fused else "never pays"
    print(
        f"{protocol:10s} {once:5.0f} s to compile, "
        f"then {1e3 * fused:.1f} ms against {1e3 * eager:.1f} ms: {verdict}",
        end="; ",
    )
    print(f"a run has {iterations:,}", flush=True)
    found = {
        "compile_seconds": once,
        "compiled_seconds": fused,
        "eager_seconds": eager,
        "iterations": iterations,
    }
    return found | {"breaks_even": breaks_even if eager > fused else None}


def on_cuda(seconds: float = 20.0) -> dict[str, Any]:
    """Digits at the published widths, S-IntroVAE: bf16, channels_last, compiled, fused against
    plain eager float32."""
    loop = loop_of("cuda", model="soft_intro", **PUBLISHED_DIGITS, **FAST)
    plain = build_model(loop.config, loop.data.shape)  # type: ignore[attr-defined]
    images, numbers = loop.data.train.cpu().float() / 255, itertools.count()  # type: ignore[attr-defined]
    chosen = [torch.randperm(len(images))[: loop.config.batch_size] for _ in range(20)]
    eager = Eager(
        plain.encoder,
        plain.decoder,
        lambda: images[chosen[next(numbers) % 20]].cuda(),
        loop.config.latent_dim,
    )
    ours = iterating(loop)

    def waiting(call: Callable[[], Any]) -> Callable[[], None]:
        return lambda: [call() for _ in range(10)] and torch.cuda.synchronize()  # type: ignore[func-returns-value]

    times = alternate({"eager": waiting(eager), "ours": waiting(ours)}, seconds)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        ours()
        torch.cuda.set_sync_debug_mode("default")
    ratio, costs = times["eager"] / times["ours"], largest_costs(waiting(ours))
    print(
        torch.cuda.get_device_name(),
        "{eager:.3f} s eager, {ours:.3f} s ours, for ten:".format(**times),
        f"{ratio:.2f} times",
    )
    print(f"{len(waits)} waits for the device in an iteration; largest costs", costs)
    found = {
        "device": torch.cuda.get_device_name(),
        "eager_seconds": times["eager"] / 10,
        "ours_seconds": times["ours"] / 10,
    }
    return found | {"faster": ratio, "waits": len(waits), "costs": costs}


def run() -> tuple[dict[str, Any], list[str]]:
    """Print the tables; returns what was measured, and the targets that were missed."""
    random.seed(0)
    torch.manual_seed(0)
    published = against_published()
    rows = published["rows"]
    print("\nwhat the loop adds: logging, moving average, guard against NaN, progress")
    loops = [overhead("soft_intro", REFERENCE, 20, 12.0)]
    loops += [overhead(model, LAPTOP, 40, 3.0) for model in MODELS]
    print("\ntorch.compile, S-IntroVAE")
    compiling = {
        name: compiled(name, given["iterations"])
        for name, given in (("toy", REFERENCE), ("digits", DIGITS))
    }
    cuda = None
    if torch.cuda.is_available():
        print("\nimages on CUDA")
        cuda = on_cuda()
    else:
        print("\nno CUDA here: its rows are left out")
    ratio = rows["published"]["seconds"] / rows["ours"]["seconds"]
    targets = {
        "toy protocol: 1.5 times the published loop's work": ratio >= 1.5,
        "toy protocol: the loop adds 5 % at most": loops[0]["overhead"] <= 0.05,
        "compile is off where it does not pay": not RunConfig().compile,
        "images on CUDA: 3 times plain eager float32": cuda is None or cuda["faster"] >= 3,
        "images on CUDA: no wait for the device": cuda is None or cuda["waits"] == 0,
    }
    measured = {**published, "faster": ratio, "loops": loops, "compiled": compiling, "cuda": cuda}
    return measured, [target for target, met in targets.items() if not met]


if __name__ == "__main__":
    measure_compiled(sys.argv[1])
