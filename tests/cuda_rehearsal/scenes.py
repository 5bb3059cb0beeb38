"""Scenes that are played on a pretended GPU: python scenes.py SCENE [NAME ...].

Each prints a line of JSON, name -> what was counted; an error is counted as "error". Fake tensors
and a loaded stub would disturb other tests, so this is a process of its own.
"""

import contextlib
import io
import json
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from pretended import card, pretend  # before torch

import torch  # isort: skip
import torch.distributed as dist

from asintrovae import (
    RunConfig,
    build_data,
    build_features,
    build_model,
    build_objective,
    evaluate,
    save_record,
    train,
)
from asintrovae.data import images
from asintrovae.data.image_files import write_row
from asintrovae.data.images import Epochs, MemoryImages
from asintrovae.running.loop import Loop, only_learning
from asintrovae.theory.objectives import Noise, soft_intro
from benchmarks.measuring import modules_move

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("vae", "intro", "soft_intro", "as_intro", "wgan_gp")
SMALL = {
    "points": {"batch_size": 32, "widths": (16,)},
    "images": {
        "dataset": "mnist-subset",
        "latent_dim": 8,
        "widths": (4, 8),
        "batch_size": 8,
        "mirror": True,
        "feature_network": "mnist-classifier",
    },
    "cifar10": {"latent_dim": 128, "widths": (64, 128, 256), "batch_size": 128},
    "celeba128": {"latent_dim": 256, "widths": (64, 128, 256, 512, 512), "batch_size": 32},
    "celeba256": {"latent_dim": 256, "widths": (64, 128, 256, 512, 512, 512), "batch_size": 16},
}
SIDES = {"cifar10": 32, "celeba128": 128, "celeba256": 256}


def config_of(kind, model, **more):
    """A short run on the pretended device."""
    free = {"device": "cuda", "iterations": 4, "warmup": 0, "log_every": 2, "checkpoint_every": 2}
    free |= {"evaluation_samples": 64, "ema": 0.9, "c": 0.5 if model == "as_intro" else None}
    free |= {"run_dir": tempfile.mkdtemp(dir=os.environ["TMPDIR"])}
    if kind in SIDES:
        free |= {"dataset": kind, "ema": 0.0}
    return RunConfig(**{**free, **SMALL[kind], "model": model, **more})


def parts_of(config):
    """Model, objective and data of a run; images of a set that is not here are black."""
    if config.dataset in SIDES:
        images = torch.zeros(config.batch_size, 3, *[SIDES[config.dataset]] * 2, dtype=torch.uint8)
        epochs = Epochs(len(images), config.batch_size, 0)
        data = MemoryImages(images, images, epochs, torch.device("cuda"))
    else:
        data = build_data(config)
    return build_model(config, data.shape).train(), build_objective(config), data


def iteration(kind, model, **more):
    """The second iteration of a run."""
    with pretend() as counted:
        config = config_of(kind, model, **more)
        loop = Loop(*parts_of(config), config)
        loop.iterate(0)
        counted.reset()
        loop.watch.note(1, loop.iterate(1))
    return summary(counted)


def summary(counted):
    """What a test looks at."""
    return {
        "launches": sum(counted.launches.values()),
        "by_kernel": dict(counted.launches.most_common()),
        "waits": counted.waits,
        "copies": len(counted.copies),
        "doubles": sorted(counted.doubles),
        "exchanges": sum(counted.exchanges.values()),
    }


def ensemble(model):
    """The second iteration of three members."""
    from asintrovae.sweeps.ensemble import Ensemble

    with pretend() as counted:
        members = ({"seed": k, "workers": 0, "beta_rec": 0.2 + k} for k in range(3))
        loop = Ensemble([config_of("points", model, **own) for own in members]).loop
        loop.iterate(0)
        counted.reset()
        loop.watch.note(1, loop.iterate(1))
    return summary(counted)


def whole(kind, model):
    """A run that is trained, evaluated and recorded."""
    with pretend() as counted:
        config = config_of(kind, model)
        network, objective, data = parts_of(config)
        result = train(network, objective, data, config)
        metrics = evaluate(network, data, config, build_features(config))
        record = save_record(config, result, metrics, 0)
    return {**summary(counted), "status": record["status"], "metrics": sorted(metrics)}


def kept(free):
    """Whether a folder of twelve images, 9,216 bytes, is kept on a card with so many bytes free."""
    images.MEMORY_LIMIT, folder = 0, tempfile.mkdtemp(dir=os.environ["TMPDIR"])
    for number in range(12):
        write_row(Path(folder) / f"{number}.png", torch.full((1, 3, 16, 16), number / 12))
    own = {"dataset": "folder", "data_dir": folder, "resolution": 16, "feature_network": None}
    with pretend(free=free) as counted:
        data = build_data(config_of("images", "vae", workers=0, **own))
        copies, waits = len(counted.copies), len(counted.waits)
        device = str(data.batch(1).device)
    return {
        "kept": isinstance(data, MemoryImages),
        "device": device,
        "copies": copies,
        "waits": waits,
    }


def moves(kind, model):
    """The checkpoint of the card is taken up on the CPU, for real, and that of the CPU on it."""

    def where(device):
        return pretend() if device == "cuda" else contextlib.nullcontext()

    starts = []
    for first, second in (("cuda", "cpu"), ("cpu", "cuda")):
        config = config_of(kind, model, device=first)
        with where(first):
            loop = Loop(*parts_of(config), config)
            loop.iterate(0)
            loop.save(2)
        config = config.model_copy(update={"device": second})
        with where(second):
            loop = Loop(*parts_of(config), config)
            loop.resume()
            loop.iterate(2)
        starts.append(loop.start)
    return {"starts": starts}


def notebook(name):
    """Every cell of a training notebook, with a short run's parameters."""
    import matplotlib

    matplotlib.use("agg")
    kind = "points" if name == "toy" else "images"
    own = config_of(kind, "as_intro").model_dump(exclude_defaults=True)
    own |= {"device": "cuda"}
    namespace = {"__name__": "__main__"}
    with pretend() as counted, contextlib.redirect_stdout(io.StringIO()):
        for cell in cells_of(f"training/{name}"):
            exec(compile(cell, f"{name}.md", "exec"), namespace)
            if "model: str = " in cell:  # the cell of parameters
                namespace |= own
        device = str(namespace["config"].torch_device())
    return {**summary(counted), "device": device}


def processes(kind, model):
    """The second iteration of one process of four."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        with pretend(count=4) as counted:
            config = config_of(kind, model, devices=4)
            loop = Loop(*parts_of(config), config)
            norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in loop.model.modules())
            loop.iterate(0)
            counted.reset()
            loop.iterate(1)
    finally:
        dist.destroy_process_group()
    return {**summary(counted), "norms": norms}


def graphs(kind, model):
    """How Dynamo breaks the loss of each phase on the card; "" for one graph."""
    import torch._dynamo as dynamo
    from torch._subclasses.fake_tensor import FakeTensorMode

    from asintrovae.build import new_model

    config = config_of(kind, model, device="cpu")
    shape, found = build_data(config).shape, {}
    with modules_move(), card(), FakeTensorMode():
        network = new_model(config, shape)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.num_batches_tracked = torch.zeros((), dtype=torch.long)
        network = network.to("cuda").train()
        B, n = config.batch_size, config.latent_dim
        x = torch.rand(B, *shape, device="cuda")
        drawn = (torch.randn(B, n, device="cuda") for _ in range(4))
        noise = Noise(*drawn, torch.rand(B, device="cuda"))
        for phase in build_objective(config).phases:
            dynamo.reset()
            whole_graph = torch.compile(phase.loss, backend="eager", fullgraph=True)
            with only_learning(network, phase.learns):
                try:
                    whole_graph(network, x, noise, 0.05)
                    found[phase.name] = ""
                except Exception as error:
                    lines = [line.strip() for line in str(error).splitlines()]
                    own = [line for line in lines if "asintrovae/" in line]
                    found[phase.name] = (own or lines)[-1 if own else 0]
    return {"breaks": found}


def memory(kind):
    """Most bytes alive while training and while evaluating 10,000 images."""
    with pretend() as counted:
        config = config_of(kind, "soft_intro", evaluation_samples=10_000)
        network, objective, data = parts_of(config)
        loop = Loop(network, objective, data, config)
        loop.iterate(0)
        counted.reset()
        loop.iterate(1)
        training = counted.peak
        data.test = data.test[:1].expand(10_000, -1, -1, -1)  # a view: not to be held for a test
        del loop
        counted.reset()
        evaluate(network, data, config)
    return {"training": training, "evaluation": counted.peak, "at": counted.peak_at}


class TimeUpError(BaseException):
    """The seconds of a chapter are over; no cell catches it."""


def chapter(name, seconds):
    """As many cells of a chapter as run in some seconds on a machine with a card."""
    import matplotlib

    matplotlib.use("agg")

    def time_up(*_):
        raise TimeUpError

    os.chdir(ROOT / "book")
    cells, namespace, done = cells_of(name), {"__name__": "__main__"}, 0
    signal.signal(signal.SIGALRM, time_up)
    with pretend(), contextlib.redirect_stdout(io.StringIO()):
        signal.alarm(int(seconds))
        try:
            for cell in cells:
                exec(compile(cell, f"{name}.md", "exec"), namespace)
                done += 1
        except TimeUpError:
            pass
        signal.alarm(0)
    return {"done": done, "cells": len(cells)}


def cells_of(name):
    """Code of a page of book/src, cell by cell, without what IPython alone understands."""
    text = (ROOT / f"book/src/{name}.md").read_text()
    cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = []
    for cell in cells:
        code = re.sub(r"\A---\n.*?^---\n", "", cell, flags=re.MULTILINE | re.DOTALL)
        code = re.sub(r"^(:.*|\s*%.*)\n", "", code, flags=re.MULTILINE)
        found.append(code.replace("except ImportError:\n", "except ImportError:\n    pass\n"))
    return found


@contextlib.contextmanager
def planted(owner, name, wrap):
    """Replace a part of the package by a faulty one."""
    old = getattr(owner, name)
    setattr(owner, name, wrap(old))
    try:
        yield
    finally:
        setattr(owner, name, old)


def in_the_error(fault):
    """A fault in the reconstruction error, from its right value and x."""
    return planted(soft_intro, "reconstruction_error", lambda old: lambda x, y: fault(old(x, y), x))


FAULTS = {
    "blocking copy": lambda: planted(
        Noise, "to", lambda old: lambda own, device: Noise(*(t.to(device) for t in own))
    ),
    "noise on the CPU": lambda: planted(Noise, "to", lambda old: lambda own, device: own),
    "item in a loss": lambda: in_the_error(lambda r, x: r * (1 + 0 * r.sum().item())),
    "a branch on a value": lambda: in_the_error(lambda r, x: r if (r < 1e9).all() else 0 * r),
    "a mask as index": lambda: in_the_error(lambda r, x: r[r.isfinite()]),
    "a constant on the CPU": lambda: in_the_error(lambda r, x: r + torch.zeros(len(x))),
    "a constant from Python": lambda: in_the_error(
        lambda r, x: r + torch.tensor([0.0], device=x.device)
    ),
    "float64 on the device": lambda: in_the_error(lambda r, x: r.double().float()),
    "every term logged": lambda: planted(
        Loop,
        "exchange",
        lambda old: lambda *given: {k: v for k, v in old(*given).items() if float(v) == float(v)},
    ),
    "more launches": lambda: in_the_error(lambda r, x: (r + r) / 2),
}
"""Name -> context in which the fault is planted."""


def fault(name):
    """An iteration of S-IntroVAE on points with a planted fault."""
    with FAULTS[name]():
        return iteration("points", "soft_intro")


SCENES = {
    "iteration": lambda kind, model: iteration(kind, model),
    "bf16": lambda kind, model: iteration(kind, model, precision="bf16-mixed"),
    "ensemble": ensemble,
    "whole": whole,
    "kept": kept,
    "moves": moves,
    "notebook": notebook,
    "processes": processes,
    "graphs": graphs,
    "memory": memory,
    "chapter": chapter,
    "fault": fault,
}


def play(scene, *names):
    """What a scene counts, or its error with the line of the package."""
    try:
        return SCENES[scene](*names)
    except Exception as error:
        lines = [line.strip() for line in traceback.format_exc().splitlines()]
        own = [line for line in lines if "asintrovae/" in line and "/tests/" not in line]
        return {"error": f"{type(error).__name__}: {str(error)[:300]} at {(own or lines)[-1]}"}


def main(wanted):
    """Play scenes, SCENE:NAME:NAME each, and print what they count."""
    warnings.filterwarnings("ignore")
    for text in wanted:
        print(json.dumps({text: play(*text.split(":"))}), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        main(sys.argv[1:])
