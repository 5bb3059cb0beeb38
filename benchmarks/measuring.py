"""What every benchmark needs: fair times, counted bytes, the machine's name."""

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WITHOUT_KERNEL = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.detach.default,
    aten.alias.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.lift_fresh.default,
    aten.lift.default,
    aten.set_.source_Tensor,
    aten.is_pinned.default,
    aten.resize_.default,
}
"""Operations that a GPU does without a kernel."""


def alternate(
    calls: dict[str, Callable[[], Any]], seconds: float = 1.0, rounds: int = 3
) -> dict[str, float]:
    """Shortest time of each call, in seconds.

    They take turns, so that a busy machine is busy for all of them.

    seconds: goes on for about so long. rounds: but for so many turns at least, after one that does
    not count.
    """
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while rounds > 0 or time.perf_counter() < end:
        rounds -= 1
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


class LiveBytes(TorchDispatchMode):
    """Counts what tensors made inside hold: `peak`, the most bytes alive at once, and `made`, all
    of them.

    Tensors that were there before do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then look at the storages that are new."""
        self._note((args, kwargs), count=False)
        result = func(*args, **(kwargs or {}))
        self._note(result, count=True)
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result

    def _note(self, tensors: Any, count: bool) -> None:
        self.alive = {
            key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()
        }
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, torch.Tensor):
                ref = StorageWeakRef(tensor.untyped_storage())
                if ref.cdata not in self.alive:
                    size = tensor.untyped_storage().nbytes() * count
                    self.alive[ref.cdata] = ref, size
                    self.made += size


def kernels(func: Any, args: Any) -> int:
    """Return how many kernels a GPU launches for an operation, 0 for a view or an allocation."""
    if func.is_view or func in WITHOUT_KERNEL or func.namespace in ("prim", "profiler"):
        return 0
    return sum(map(bool, args[-1])) if func is aten.convolution_backward.default else 1


def moved(self: torch.nn.Module, fn: Callable[[Any], Any], recurse: bool = True) -> torch.nn.Module:
    """Module._apply that replaces parameters and buffers; fake tensors cannot be swapped."""
    for child in self.children():
        moved(child, fn)
    for name, parameter in self._parameters.items():
        if parameter is None:
            continue
        with torch.no_grad():
            new = fn(parameter)
        if new is not parameter:
            self._parameters[name] = torch.nn.Parameter(new.detach(), parameter.requires_grad)
    for name, buffer in self._buffers.items():
        self._buffers[name] = None if buffer is None else fn(buffer)
    return self


@contextmanager
def modules_move() -> Iterator[None]:
    """Let modules of fake tensors move to another device or memory format."""
    old, torch.nn.Module._apply = torch.nn.Module._apply, moved
    try:
        yield
    finally:
        torch.nn.Module._apply = old


def in_another_process(module: str, *arguments: object) -> str:
    """What `python -m module arguments` prints, with memory of its own to be measured."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def machine() -> dict[str, Any]:
    """Processor, threads and versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        processor = found[1]
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "asintrovae": version("asintrovae"),
    }


def record(folder: Path, name: str, measured: dict[str, Any]) -> Path:
    """Store what a benchmark measured in the file of this machine, beside that of the others.

    Args:
        folder: of the files.
        name: of the benchmark.
        measured: replaces what the benchmark stored before.

    Returns:
        The file.
    """
    here = machine()
    slug = re.sub(r"\W+", "-", f"{here['processor']} {here['threads']} threads").strip("-").lower()
    path = folder / f"{slug}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = {"machine": here, **measured}
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path
