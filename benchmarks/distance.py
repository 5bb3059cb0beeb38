"""The AS-Distance, forward and backward, against the equations written down as dense arrays of all
pairs and axes."""

import math
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from asintrovae import as_distance
from asintrovae.theory.tiled_distance import TILE
from asintrovae.threads import torch_threads
from benchmarks.measuring import LiveBytes, alternate, in_another_process

KERNELS = ("mean", "product", "prior")
LARGE, HUGE = (512, 256), (4096, 512)  # B, n: where both run, and where only tiles do


def axis_kernel(mu_a: Tensor, var_a: Tensor, mu_b: Tensor, var_b: Tensor, prior: bool) -> Tensor:
    """Log of the kernel of one axis.

    The latent axis comes first, which is the faster of the two orders for eager code.
    """
    delta, s = (
        mu_a.T[:, :, None] - mu_b.T[:, None],
        var_a.T[:, :, None] + var_b.T[:, None],
    )  # (n, N, M)
    log_k = -0.5 * (delta**2 / s + torch.log(2 * math.pi * s))
    if prior:
        m = (mu_a.T[:, :, None] * var_b.T[:, None] + mu_b.T[:, None] * var_a.T[:, :, None]) / s
        v = var_a.T[:, :, None] * var_b.T[:, None] / s
        log_k = log_k - 0.5 * (m**2 / (1 + v) + torch.log(2 * math.pi * (1 + v)))
    return log_k


def gram(mu_a: Tensor, var_a: Tensor, mu_b: Tensor, var_b: Tensor, kernel: str) -> Tensor:
    """Eq. 6 or Eqs. 3 and 5 of AS-IntroVAE, or the mean over the axes: (N, M)."""
    if kernel == "mean":  # sqrt(2π) times the kernel of an axis, without its logarithm
        delta, s = mu_a.T[:, :, None] - mu_b.T[:, None], var_a.T[:, :, None] + var_b.T[:, None]
        return (torch.exp(-0.5 * delta**2 / s) / torch.sqrt(s)).mean(0)
    return axis_kernel(mu_a, var_a, mu_b, var_b, kernel == "prior").sum(0).exp()


def dense(mu_r: Tensor, var_r: Tensor, mu_g: Tensor, var_g: Tensor, kernel: str = "mean") -> Tensor:
    """D = E k(r, r') + E k(g, g') - 2 E k(r, g), all pairs."""
    k_rr, k_gg = gram(mu_r, var_r, mu_r, var_r, kernel), gram(mu_g, var_g, mu_g, var_g, kernel)
    return k_rr.mean() + k_gg.mean() - 2 * gram(mu_r, var_r, mu_g, var_g, kernel).mean()


DISTANCES: dict[str, Callable[..., Tensor]] = {"dense": dense, "package": as_distance}


def posteriors(B: int, n: int, members: int = 0) -> list[Tensor]:
    """Seeded means and variances of two batches, (B, n) each or (members, B, n), that want
    gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (members, B, n) if members else (B, n)
    means = [torch.randn(shape, generator=generator) + shift for shift in (0, 0.3)]
    variances = [torch.rand(shape, generator=generator) + 0.1 for _ in means]
    return [t.requires_grad_() for t in (means[0], variances[0], means[1], variances[1])]


def step(
    distance: Callable[..., Tensor], given: list[Tensor], kernel: str = "mean"
) -> list[Tensor]:
    """D, of every member where there are members, and its gradients."""
    over = vmap(distance, (0, 0, 0, 0, None)) if given[0].dim() == 3 else distance
    D = over(*given, kernel)
    return [D.detach(), *torch.autograd.grad(D.sum(), given)]


def error(B: int, n: int, members: int, kernel: str) -> float:
    """Largest difference from the reference in float64, relative to the largest of its kind."""
    given = [t.detach().double().requires_grad_() for t in posteriors(B, n, members)]
    pairs = zip(step(dense, given, kernel), step(as_distance, given, kernel), strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for theirs, ours in pairs)


def counted(name: str, given: list[Tensor], kernel: str) -> LiveBytes:
    """The bytes that one step makes."""
    with LiveBytes() as counter:
        step(DISTANCES[name], given, kernel)
    return counter


def compare(
    B: int, n: int, kernel: str = "mean", members: int = 0, threads: int = 0, seconds: float = 1.0
) -> dict[str, Any]:
    """One row: times and memory of both, and their ratios. threads: 0 for all there are. seconds: 0
    for two turns."""
    every = torch.get_num_threads()
    torch.set_num_threads(threads or every)
    given = posteriors(B, n, members)
    times = alternate(
        {name: lambda f=f: step(f, given, kernel) for name, f in DISTANCES.items()},
        seconds,
        3 if seconds else 2,
    )
    with torch_threads(
        1
    ):  # each further thread has a tile more, 2 MB, which the counter does not see
        memory = {name: counted(name, given, kernel).peak for name in DISTANCES}
    row = {"B": B, "n": n, "kernel": kernel, "members": members, "threads": torch.get_num_threads()}
    row["path"] = "tiles" if n * (2 * B) ** 2 > TILE["cpu"] else "one tile"
    torch.set_num_threads(every)
    for name in DISTANCES:
        row |= {f"{name}_seconds": times[name], f"{name}_bytes": memory[name]}
    row |= {
        "faster": times["dense"] / times["package"],
        "smaller": memory["dense"] / memory["package"],
    }
    columns = [1e3 * times["dense"], 1e3 * times["package"], row["faster"]]
    columns += [memory["dense"] / 1e6, memory["package"] / 1e6, row["smaller"]]
    numbers = " ".join(f"{column:9.2f}" for column in columns)
    print(f"{B:5d} {n:4d} {kernel:8s} {members or '':>3}  {row['path']:8s} {numbers}", flush=True)
    return row


def peak_memory(name: str, B: int, n: int) -> dict[str, float]:
    """Of a process of its own: bytes it grew by in one step, the most it ever held, and the
    seconds."""
    grown, most, seconds = in_another_process("benchmarks.distance", name, B, n).split()
    return {"grown": float(grown), "most": float(most), "seconds": float(seconds)}


def measure_memory(name: str, B: int, n: int) -> None:
    """The other end of `peak_memory`."""
    step(DISTANCES[name], posteriors(2, 2))
    given = posteriors(B, n)
    before, start = most_held(), time.perf_counter()
    D = step(DISTANCES[name], given)[0]
    seconds, after = time.perf_counter() - start, most_held()
    assert D.isfinite()
    print(after - before, after, seconds)


def most_held() -> int:
    """Most bytes this process ever held.

    On Linux getrusage would count what its parent held when it started this one.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def ceilings() -> dict[str, float]:
    """What this machine does at best, now: matrix products, memory, and numbers per second of each
    operation in the cache."""
    side = torch.randn(1024, 1024)
    large, other = torch.ones(2**26), torch.empty(2**26)
    x = torch.rand(8, 64, TILE["cpu"] // 512) + 0.1
    out, a, b = torch.empty_like(x), x[:, :, :1], x[:, :1]
    calls = {
        "matmul": lambda: side @ side,
        "stream": lambda: torch.mul(large, 2.0, out=other),
        "outer": lambda: torch.sub(a, b, out=out),
        "mul": lambda: torch.mul(x, x, out=out),
        "div": lambda: torch.div(x, x, out=out),
        "addcmul": lambda: torch.addcmul(x, x, x, out=out),
        "rsqrt": lambda: torch.rsqrt(x, out=out),
        "exp2": lambda: torch.exp2(x, out=out),
        "exp": lambda: torch.exp(x, out=out),
        "log2": lambda: torch.log2(x, out=out),
        "sum rows": lambda: x.sum(-1),
        "sum columns": lambda: x.sum(-2),
    }
    times = alternate(calls, seconds=4.0)
    rates = {name: x.numel() / seconds for name, seconds in times.items()}
    return rates | {
        "matmul": 2 * 1024**3 / times["matmul"],
        "stream": 2 * large.nbytes / times["stream"],
    }


# Passes over the numbers of a tile of the "mean" kernel, forward and backward
PASSES = {
    "outer": 2,
    "mul": 6,
    "div": 1,
    "addcmul": 1,
    "rsqrt": 1,
    "exp2": 1,
    "sum rows": 3,
    "sum columns": 2,
}


def against_ceilings(row: dict[str, Any], rates: dict[str, float]) -> dict[str, float]:
    """Operations and bytes of one step, and the share of the machine's rates that it reaches."""
    B, n = row["B"], row["n"]
    numbers = B * (2 * B + 1) * n  # pairs i <= j of 2 B examples, by axis
    floor = numbers * sum(count / rates[name] for name, count in PASSES.items())
    made = {name: counted(name, posteriors(B, n), row["kernel"]).made for name in DISTANCES}
    found = {
        "numbers": numbers,
        "operations": numbers * sum(PASSES.values()),
        "floor_seconds": floor,
        "share_of_floor": floor / row["package_seconds"],
        "dense_bytes_made": made["dense"],
        "dense_share_of_stream": 2 * made["dense"] / rates["stream"] / row["dense_seconds"],
        "package_bytes_made": made["package"],
    }
    billions = {name: rate / 1e9 for name, rate in rates.items()}
    print(
        "\nat best: {matmul:.0f} GFLOP/s in a matrix product, {stream:.1f} GB/s of memory; "
        "in the cache {mul:.1f} products, "
        "{exp2:.2f} exp2, {exp:.2f} exp, {log2:.2f} log2 in 1e9/s".format(**billions)
    )
    reached, by_memory = found["share_of_floor"], found["dense_share_of_stream"]
    gigabytes = {name: size / 1e9 for name, size in made.items()}
    print(
        f"B = {B}, n = {n}: {numbers / 1e6:.0f}e6 pairs by axis, {sum(PASSES.values())} "
        "passes over them in the cache:"
    )
    print(
        f"{floor:.3f} s one by one, ours takes {1 / reached:.1f} times as long; "
        f"{gigabytes['package']:.3f} GB of new arrays"
    )
    print(f"dense: {gigabytes['dense']:.1f} GB of new arrays,", end=" ")
    print(
        f"each byte written and read at least once: {by_memory:.0%} of its time at the speed "
        "of memory"
    )
    return found


def compiled(row: dict[str, Any]) -> dict[str, float] | None:
    """The reference under torch.compile, where there is a compiler: seconds to compile, and per
    step."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        return None
    given = posteriors(row["B"], row["n"])
    fused = torch.compile(dense)
    start = time.perf_counter()
    step(fused, given)
    once = time.perf_counter() - start
    times = alternate(
        {"compiled": lambda: step(fused, given), "package": lambda: step(as_distance, given)},
        seconds=2.0,
    )
    gain = times["package"] - times["compiled"]
    verdict = (
        f"pays after {once / gain:.0f} steps" if gain > 0 else "never pays, a step takes longer"
    )
    each = "{compiled:.2f} s a step against {package:.2f} s".format(**times)
    print(f"dense under torch.compile: {once:.0f} s for the first, then {each}: {verdict}")
    return {
        "compile_seconds": once,
        "compiled_seconds": times["compiled"],
        "package_seconds": times["package"],
    }


def run() -> tuple[dict[str, Any], list[str]]:
    """Print the table; returns what was measured, and the targets that were missed."""
    print(
        "\n    B    n kernel   members path     dense/ms   ours/ms    faster  dense/MB   "
        "ours/MB   smaller"
    )
    small = [
        compare(32, 2, threads=1),
        compare(256, 2, threads=1),
        compare(256, 2, members=30, threads=1, seconds=3.0),
    ]
    rows = [compare(256, 2, kernel, threads=1) for kernel in KERNELS[1:]]
    sizes = [(B, n) for n in (2, 32, 128) for B in (32, 64, 128, 256, 512) if B**2 * n < 2**24]
    rows += [compare(B, n, seconds=0.5) for B, n in sizes]
    rows += [compare(256, 128, kernel, seconds=0.5) for kernel in KERNELS]
    large = compare(*LARGE, seconds=0)
    ratio_memory = [peak_memory(name, *LARGE) for name in DISTANCES]
    huge = peak_memory("package", *HUGE)
    smaller = ratio_memory[0]["grown"] / ratio_memory[1]["grown"]
    grown = [found["grown"] / 1e9 for found in (*ratio_memory, huge)]
    print(
        f"\nprocesses, B = 512, n = 256: dense grows by {grown[0]:.2f} GB, "
        f"ours by {grown[1]:.3f} GB"
    )
    print(
        f"B = 4096, n = 512: {huge['seconds']:.0f} s, {huge['most'] / 1e9:.2f} GB in all, "
        f"{grown[2]:.2f} GB of them for D"
    )
    rates = ceilings()
    wrong = max(error(*size, kernel) for size in ((33, 2, 3), (70, 40, 0)) for kernel in KERNELS)
    measured = {
        "rows": [*small, *rows, large],
        "processes": {
            "dense": ratio_memory[0],
            "package": ratio_memory[1],
            "package 4096 x 512": huge,
        },
        "ceilings": rates,
        "large": against_ceilings(large, rates),
        "compiled": compiled(large),
        "error": wrong,
    }
    targets = {
        "as right as the reference, to 1e-11": wrong < 1e-11,
        "B = 512, n = 256: 10 times faster": large["faster"] >= 10,
        "B = 512, n = 256: an eighth of the memory": smaller >= 8,
        "B = 4096, n = 512: in 2 GB": huge["most"] < 2e9,
        "B = 32, n = 2: no slower": small[0]["faster"] >= 1,
        "B = 256, n = 2: 2 times faster": small[1]["faster"] >= 2,
        "B = 256, n = 2, 30 members: 2 times faster": small[2]["faster"] >= 2,
    }
    return measured, [target for target, met in targets.items() if not met]


if __name__ == "__main__":
    measure_memory(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
