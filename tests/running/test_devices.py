"""What the package does for a GPU, as far as it can be seen without one."""

import pickle
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import build, tiny_config

from asintrovae import ParameterError, RunConfig, evaluate, train
from asintrovae.devices import arithmetic, computing_on, moved
from asintrovae.evaluation import evaluate as evaluation
from asintrovae.evaluation import measures
from asintrovae.running.loop import Loop, draw_steps, rounded_once
from asintrovae.running.train import explain_out_of_memory
from asintrovae.sweeps.ensemble import Ensemble
from asintrovae.theory.networks import conv_autoencoder
from benchmarks.training_step import largest_costs, self_times

IMAGES = {
    "dataset": "mnist-subset",
    "widths": (3, 4),
    "latent_dim": 4,
    "batch_size": 8,
    "feature_network": None,
    "warmup": 0,
}
CUDA, CPU, MPS = (torch.device(name) for name in ("cuda", "cpu", "mps"))


@pytest.fixture
def old_card(monkeypatch):
    """A machine with a GPU of 2018."""
    for name, answer in {
        "is_available": True,
        "device_count": 1,
        "get_device_capability": (7, 5),
        "get_device_name": "Tesla T4",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)


def policy():
    cudnn = torch.backends.cudnn
    now = torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32
    return (*now, cudnn.benchmark, cudnn.deterministic)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("32-true", (False, False, False, True)),
        ("tf32", (True, True, True, False)),
        ("bf16-mixed", (True, True, True, False)),
    ],
)
def test_precision_decides_how_cuda_computes_and_leaves_the_settings_as_they_were(
    precision, expected
):
    before = policy()
    with computing_on(CPU, precision):
        assert policy() == before
    with computing_on(CUDA, precision):
        assert policy() == expected
    assert policy() == before


def test_how_a_device_computes_is_named():
    assert arithmetic(CPU, "tf32") == arithmetic(MPS, "tf32") == "32-true"
    assert arithmetic(CPU, "bf16-mixed") == "bf16-mixed"
    named = [arithmetic(CUDA, precision) for precision in ("32-true", "tf32", "bf16-mixed")]
    assert named[0] == "32-true, no TF32, deterministic"
    assert len(set(named)) == 3


def test_a_gpu_without_bfloat16_refuses_it(old_card, tmp_path):
    said = (
        "precision='bf16-mixed' needs compute capability 8.0 or more, "
        "Tesla T4 has compute capability 7.5; use '32-true'"
    )
    config = tiny_config(tmp_path, device="auto", precision="bf16-mixed")
    with pytest.raises(ParameterError, match=f"^{re.escape(said)}$"):
        config.torch_device()
    scored = RunConfig(dataset="cifar10", feature_network="inception", fid_precision="bf16-mixed")
    with pytest.raises(ParameterError, match=r"^fid_precision='bf16-mixed' needs"):
        scored.torch_device()
    assert tiny_config(tmp_path, device="auto", precision="tf32").torch_device() == CUDA


def test_bfloat16_is_no_way_out_of_full_memory_where_there_is_none(old_card, tmp_path):
    for device, precision in (("cuda", "32-true"), ("cpu", "bf16-mixed")):
        config = tiny_config(tmp_path, device=device, precision=precision)
        with (
            pytest.raises(torch.OutOfMemoryError, match="lower batch_size, in another run_dir"),
            explain_out_of_memory(config),
        ):
            raise torch.OutOfMemoryError("CUDA out of memory.")


def test_only_copies_to_cuda_are_not_waited_for():
    class Copied:
        def to(self, device, non_blocking):
            return device.type, non_blocking

    assert [moved(Copied(), device) for device in (CUDA, MPS, CPU)] == [
        ("cuda", True),
        ("mps", False),
        ("cpu", False),
    ]


def test_frozen_weights_rounded_once_give_the_numbers_of_autocast(tmp_path):
    config = tiny_config(tmp_path, **IMAGES, model="soft_intro", precision="bf16-mixed")
    found = []
    for rounds in (True, False):
        data, model, objective = build(config)
        loop = Loop(model.train(), objective, data, config)
        assert loop.rounded is rounded_once
        if not rounds:
            loop.rounded = lambda _: computing_on(CPU, "32-true")
        terms = loop.iterate(0)
        found.append([*terms.values(), *model.parameters()])
    assert all(map(torch.equal, *found))
    assert {value.dtype for value in found[0]} == {torch.float32}


def test_batchnorm_counts_its_batches_only_for_precise_statistics(tmp_path):
    config = tiny_config(tmp_path, **IMAGES, model="vae", iterations=3)
    data, model, objective = build(config)
    loop = Loop(model.train(), objective, data, config)
    loop.iterate(0)
    counts = {int(v) for k, v in model.state_dict().items() if "num_batches" in k}
    assert counts == {0}
    train(model, objective, data, config)
    counts = {int(v) for k, v in model.state_dict().items() if "num_batches" in k}
    assert counts == {10}


def test_phases_of_one_step_share_a_batch_that_is_fetched_once(tmp_path):
    for model, batches in (("soft_intro", [7]), ("wgan_gp", [35, 36, 37, 38, 39])):
        config = tiny_config(tmp_path, model=model)
        data, _, objective = build(config)
        asked, batch = [], data.batch
        data.batch = lambda index, batch=batch, asked=asked: asked.append(index) or batch(index)
        drawn = list(draw_steps(data, config, objective.phases, 7))
        assert asked == batches
        assert drawn[-1][0] is drawn[0][0]


def test_processes_that_draw_for_an_ensemble_get_no_weights(tmp_path):
    configs = [tiny_config(tmp_path / str(k), seed=k, widths=(512, 512)) for k in range(2)]
    draws = Ensemble(configs).draws
    pickled = pickle.dumps(draws)
    assert len(pickled) < 20_000
    for ours, theirs in zip(draws[3], pickle.loads(pickled)[3], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert all(map(torch.equal, ours[1], theirs[1]))


def test_evaluation_in_parts_gives_the_measures_of_the_whole(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, **IMAGES, model="vae", evaluation_samples=50)
    data, model, _ = build(config)
    whole = evaluate(model, data, config)
    monkeypatch.setattr(evaluation, "PIXELS_TOGETHER", 7 * 28 * 28)
    monkeypatch.setattr(evaluation, "PART_BYTES", 13 * 4 * 28 * 28)
    monkeypatch.setattr(measures, "PART_BYTES", 8 * 4 * 28 * 28)
    parts = evaluate(model, data, config)
    assert list(parts) == list(whole)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert evaluation.decoded_pixels(model) == 28 * 28
    assert torch.equal(data.test_images(9), (data.evaluation(9) * 255).round().byte())


def test_batches_of_large_images_are_small():
    networks = [conv_autoencoder((3, side, side), 4, (2, 2)) for side in (32, 128, 256)]
    pixels = list(map(evaluation.decoded_pixels, networks))
    assert pixels == [32**2, 128**2, 256**2]
    assert [evaluation.together(count) for count in pixels] == [1000, 256, 64]


def test_an_evaluation_that_does_not_fit_names_the_way_out(tmp_path, monkeypatch):
    config = tiny_config(tmp_path, **IMAGES)
    data, model, _ = build(config)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    monkeypatch.setattr(model.encoder, "forward", full)
    said = (
        "device='cpu': the evaluation with widths=(3, 4) does not fit (CUDA out of memory. Tried "
        "to allocate 2.00 GiB.); end other programs on it, or evaluate the checkpoint with "
        "device='cpu'"
    )
    with pytest.raises(torch.OutOfMemoryError, match=f"^{re.escape(said)}$"):
        evaluate(model, data, config)


def test_a_call_that_leaves_the_gpu_alone_has_its_costs_on_the_cpu():
    def row(on_device):
        return SimpleNamespace(key="mm", self_device_time_total=on_device, self_cpu_time_total=3)

    assert self_times(iter([row(0)])) == {"mm": 3}
    assert self_times([row(2)]) == {"mm": 2}
    assert largest_costs(lambda: torch.ones(9, 9) @ torch.ones(9, 9))
