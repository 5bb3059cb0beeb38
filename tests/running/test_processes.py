"""Several processes compute what one does: the distance of the whole batch, its gradients, a run, a
run that was killed."""

import dataclasses
import json
import subprocess
import sys
import time
from functools import partial
from unittest.mock import Mock

import psutil
import pytest
import torch
from conftest import MODELS, ROOT, build, tiny_config

from asintrovae import (
    ASIntroVAE,
    Gaussian,
    IntroVAE,
    ParameterError,
    as_distance,
    load_run,
    train,
)
from asintrovae.collectives import average_, gather, share, world
from asintrovae.running.checkpoint import load_checkpoint
from asintrovae.running.loop import Loop, only_learning
from asintrovae.running.processes import run_processes
from asintrovae.theory.networks import conv_autoencoder, conv_gan
from asintrovae.theory.objectives import Noise

IMAGES = {
    "dataset": "mnist-subset",
    "widths": (2, 4),
    "latent_dim": 3,
    "iterations": 6,
    "warmup": 1,
    "batch_size": 8,
}
IMAGES["channels_last"] = False  # another order of the same sums
B, n = 6, 3


def processes(function, folder, count=2):
    """Run function(folder / rank) in `count` processes of one gloo group; what each of them
    returned."""
    torch.multiprocessing.spawn(in_group, (count, function, folder), nprocs=count)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def in_group(rank, count, function, folder):
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), count)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    torch.save(function(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def posteriors():
    """Leaf tensors of two batches of posteriors, (2, B, n) each: means and log-variances."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(2, B, n, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    ]


def distances():
    """D of the whole batch with its gradients, by kernel and estimator; each process holds its
    share of the rows."""
    found = {}
    for kernel in ("mean", "product", "prior", "tempered"):
        for estimator in ("v", "u"):
            leaves = posteriors()
            q_r, q_g = (Gaussian(*gather(Gaussian(*map(share, leaf)))) for leaf in leaves)
            distance = as_distance(q_r.mean, q_r.var, q_g.mean, q_g.var, kernel, estimator)
            distance.backward()
            gradients = [leaf.grad for leaf in leaves]
            average_(gradients)
            found[kernel, estimator] = [distance.detach(), *gradients]
    return found


def phases():
    """Loss, terms, gradients and BatchNorm statistics of every phase on a convolutional model, in
    float64."""
    generator = torch.Generator().manual_seed(5)
    images, drawn = (
        torch.rand(B, 1, 8, 8, generator=generator).double(),
        Noise.draw(B, n, generator),
    )
    torch.manual_seed(0)
    model = conv_autoencoder((1, 8, 8), n, (3, 4)).double()
    found = []
    weights = {"beta_neg": 50.0, "c": 0.4}
    for objective in (
        ASIntroVAE(**weights, distance_weight=30.0),
        ASIntroVAE(**weights, distance_weight=30.0, pairing="real"),
        ASIntroVAE(**weights, distance_weight=30.0, kernel="tempered", bandwidth=1.0),
        ASIntroVAE(**weights, distance_reduction="sum", squash=True, distance_weight_decoder=30.0),
        IntroVAE(margin=2.0, hinge="batch"),
    ):
        for phase in objective.phases:
            with only_learning(model, phase.learns):
                model.zero_grad()
                x, noise = share(images), Noise(*(share(part).double() for part in drawn))
                loss, terms = phase.loss(model, x, noise, 0.5)
                loss.backward()
            values = [loss.detach().clone(), *(term.detach().clone() for term in terms.values())]
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            average_([*values, *gradients])
            found.append(
                [*values, *gradients, *(buffer.clone().double() for buffer in model.buffers())]
            )
    return found


def both():
    assert world()[1] == 2
    return distances(), phases()


def test_two_processes_see_the_distance_and_the_losses_of_the_whole_batch(tmp_path):
    """Values and gradients, BatchNorm and all, as in one process on the concatenated batch."""
    alone = distances(), phases()
    for found in processes(both, tmp_path):
        for key, expected in alone[0].items():
            torch.testing.assert_close(found[0][key], expected, rtol=1e-9, atol=1e-12)
        for expected, phase in zip(alone[1], found[1], strict=True):
            torch.testing.assert_close(phase, expected, rtol=1e-6, atol=1e-8)


def test_the_mean_over_shares_is_not_the_distance():
    """What a process would compute without the gather; the test above could not pass with it."""
    q_r, q_g = (Gaussian(*leaf) for leaf in posteriors())
    whole = as_distance(q_r.mean, q_r.var, q_g.mean, q_g.var)
    halves = [
        as_distance(q_r.mean[s], q_r.var[s], q_g.mean[s], q_g.var[s])
        for s in (slice(B // 2), slice(B // 2, B))
    ]
    assert abs(sum(halves) / 2 - whole) > 0.1 * whole


@pytest.mark.parametrize(
    "model_name", ["as_intro", pytest.param("wgan_gp", marks=pytest.mark.weekly)]
)
def test_a_run_of_two_processes_is_that_of_one(tmp_path, model_name):
    """Also with the averaged decoder, and the statistics computed at the end."""
    small = {**IMAGES, "model": model_name, "ema": 0.5, "c": 0.5, "log_every": 1, "beta_neg": 256.0}
    results = []
    for count in (1, 2):
        config = tiny_config(tmp_path / str(count), **small, devices=count)
        data, model, objective = build(config)
        results.append((train(model, objective, data, config).history, model.state_dict()))
    (alone, weights), (together, others) = results
    assert len(alone) == len(together) == 6
    for row, other in zip(alone, together, strict=True):
        assert row.keys() == other.keys()
        assert list(other.values()) == pytest.approx(list(row.values()), rel=1e-3, abs=1e-5)
    torch.testing.assert_close(others, weights, rtol=1e-3, atol=1e-5)


@pytest.mark.weekly
@pytest.mark.parametrize("killed", ["kernel", "papermill"])
def test_a_killed_run_of_two_processes_goes_on_from_papermill(tmp_path, killed):
    """The processes save, and must end by themselves, or they would write beside the next ones.

    The two who can be killed tell the processes in the same way, by being gone; each time that is
    looked at without papermill, by test_processes_that_train_launches_are_ended_in_order.
    """
    run_dir = tmp_path / "run"
    small = {
        **IMAGES,
        "model": "soft_intro",
        "iterations": 40,
        "log_every": 10,
        "checkpoint_every": 40,
        "evaluation_samples": 20,
    }
    parameters = json.dumps({**small, "devices": 2, "device": "cpu", "run_dir": str(run_dir)})
    notebook = str(ROOT / "book" / "training" / "images.ipynb")
    command = [
        sys.executable,
        "-m",
        "papermill",
        notebook,
        str(tmp_path / "out.ipynb"),
        "-y",
        parameters,
    ]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        deadline = time.monotonic() + 120
        while load_checkpoint(run_dir) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family = psutil.Process(first.pid).children(recursive=True)
        assert sum("asintrovae.running.worker" in child.cmdline() for child in family) >= 2
        (launcher,) = [child for child in family if "torch.distributed.run" in child.cmdline()]
        (launcher.parent() if killed == "kernel" else first).kill()
        said = first.stderr.read()
    assert ("DeadKernelError" in said) == (killed == "kernel")
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert 0 < load_checkpoint(run_dir).meta["iteration"] < 40
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    together = load_run(run_dir)
    assert together.record["config"]["devices"] == 2
    config = together.config.model_copy(update={"devices": 1, "run_dir": str(tmp_path / "alone")})
    data, model, objective = build(config)
    for row, other in zip(
        train(model, objective, data, config).history, together.history, strict=True
    ):
        assert list(other.values()) == pytest.approx(list(row.values()), rel=1e-2)


@pytest.mark.parametrize(("count", "stopped"), [(1, 4), (2, 10)])
def test_processes_ask_each_other_whether_to_stop_every_tenth_iteration(
    tmp_path, monkeypatch, count, stopped
):
    """Each time costs a wait for the device. One process alone stops at once."""
    config = tiny_config(tmp_path, iterations=25, log_every=25, checkpoint_every=25)
    data, model, objective = build(config)
    loop, asked, saved = Loop(model, objective, data, config), [], []

    def iterate(i):
        loop.interruption.stop_signal = 15 * (i >= 3)
        return {"loss": torch.zeros(())}

    monkeypatch.setattr("asintrovae.running.loop.world", lambda: (0, count))
    monkeypatch.setattr(
        "asintrovae.running.loop.largest", lambda number, _: asked.append(number) or number
    )
    monkeypatch.setattr(loop, "iterate", iterate)
    monkeypatch.setattr(loop, "save", lambda done, at_once: saved.append(done) or True)
    loop.run("asked")
    assert saved == [stopped]
    assert asked == [0] * (3 if count == 1 else 0) + [15]


def test_a_process_that_fails_says_why(tmp_path):
    config = tiny_config(
        tmp_path, dataset="mnist", data_dir=str(tmp_path / "none"), devices=2, widths=(2, 4)
    )
    with pytest.raises(
        RuntimeError,
        match=r"devices=2: a process failed; (.|\n)*FileNotFoundError: dataset='mnist' not found",
    ):
        run_processes(config)


def test_another_run_is_refused_before_processes_start(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    data, model, objective = build(config)
    train(model, objective, data, config)
    monkeypatch.setattr("asintrovae.running.train.run_processes", None)
    with pytest.raises(ParameterError, match="holds another run"):
        train(model, objective, data, tiny_config(tmp_path, seed=1, devices=2))


def test_an_objective_that_the_parameters_do_not_describe_is_refused(tmp_path):
    config = tiny_config(tmp_path, model="soft_intro", devices=2)
    data, model, objective = build(config)
    with pytest.raises(
        ParameterError,
        match=r"devices=2: processes build 'soft_intro' from the parameters, not .*beta_neg=500",
    ):
        train(model, dataclasses.replace(objective, beta_neg=500.0), data, config)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"devices": 3}, "devices=3 cannot share batch_size=32 equally"),
        (
            {"devices": 2, "device": "cuda:1"},
            "device='cuda:1' is one GPU, but devices=2; use device='cuda'",
        ),
        ({"channels_last": True}, "channels_last=True is for images, but dataset='8gaussians'"),
        ({"precision": "fp16"}, "precision='fp16': must be '32-true', 'tf32' or 'bf16-mixed'"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(tmp_path, parameters, message):
    with pytest.raises(ParameterError, match=message):
        tiny_config(tmp_path, **parameters)


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ParameterError, match="devices=2: this machine has 1 GPU"):
        run_processes(tiny_config(tmp_path, device="cuda", devices=2))


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        ({"channels_last": True}, 1e-3),
        ({"precision": "bf16-mixed"}, 0.1),
        ({"compile": True}, 1e-3),
    ],
)
def test_how_a_run_is_computed_changes_rounding_only(
    tmp_path, monkeypatch, model_name, how, tolerance
):
    compile_without_code = Mock(
        side_effect=partial(torch.compile, backend="aot_eager")
    )  # inductor's code takes a minute
    monkeypatch.setattr(torch, "compile", compile_without_code)
    small, histories = (
        {**IMAGES, "model": model_name, "c": 0.5, "iterations": 3, "log_every": 1},
        [],
    )
    for name, parameters in (("plain", {}), ("other", how)):
        config = tiny_config(tmp_path / name, **{**small, **parameters})
        data, model, objective = build(config)
        histories.append(train(model, objective, data, config).history)
    for row, other in zip(*histories, strict=True):
        assert list(other.values()) == pytest.approx(
            list(row.values()), rel=tolerance, abs=tolerance
        )
    assert compile_without_code.call_count == (2 if "compile" in how else 0)
    assert ("precision" in how) == (
        histories[0][0] != pytest.approx(histories[1][0], rel=1e-5, abs=1e-6)
    )


@pytest.mark.parametrize("make", [conv_autoencoder, conv_gan])
def test_what_leaves_a_network_under_autocast_is_float32(make):
    model = make((1, 8, 8), n, (3, 4))
    with torch.autocast("cpu", torch.bfloat16):
        image = model.decode(torch.zeros(2, n))
        outputs = [
            image,
            *(model.encode(image) if make is conv_autoencoder else [model.critic(image)]),
        ]
        inner = next(iter(model.children()))[0](image)
    assert {output.dtype for output in outputs} == {torch.float32}
    assert inner.dtype == torch.bfloat16
