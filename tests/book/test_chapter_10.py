"""Claims of the chapter on running: its commands in a tiny form, what a resumed run may change, its
counts of operations."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, build, tiny_config
from here import papermill_here
from test_equations import distance, of, two_posteriors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from asintrovae import ParameterError, RunConfig, evaluate, load_run, save_record, train
from asintrovae.build import OBJECTIVES
from asintrovae.config import REGISTRY
from asintrovae.running.loop import only_learning
from asintrovae.running.provenance import FREE_PARAMETERS
from asintrovae.sweeps import command as sweep
from asintrovae.sweeps.grid import read_grid
from asintrovae.theory.networks import PUBLISHED_WIDTHS, conv_autoencoder, conv_gan
from asintrovae.theory.objectives import Noise

TEXT = (ROOT / "book" / "src" / "10_running.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
PAPERMILL = [block for block in BLOCKS if "papermill" in block]
TINY = {
    "iterations": 6,
    "warmup": 1,
    "batch_size": 8,
    "widths": [4, 8],
    "evaluation_samples": 20,
    "c": 0.5,
    "device": "cpu",
}


def block_with(words):
    (block,) = [block for block in BLOCKS if words in block]
    return block


def bash(script, **environment):
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    done = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def rows():
    """The table of sizes as the chapter computes it."""
    source = re.search(r"^widths = .*?^}", TEXT, flags=re.DOTALL | re.MULTILINE)[0]
    found = {"PUBLISHED_WIDTHS": PUBLISHED_WIDTHS}
    exec(source, found)
    return found["rows"]


def test_the_rows_are_those_of_the_parameter_files():
    own = ["own-100", "own-1000", "own-10000"]
    assert list(rows()) == [*own, "mnist", "cifar10", "oxford", "celeba128", "celeba256"]
    for name, row in rows().items():
        values = yaml.safe_load(
            (ROOT / "book" / "training" / "params" / f"{name}.yaml").read_text()
        )
        height = values.get("resolution")
        channels = 3
        if name not in own:
            channels, height, _ = REGISTRY[values["dataset"]].shape
            assert tuple(values["widths"]) == PUBLISHED_WIDTHS[height]
        assert row == (
            channels,
            height,
            values["latent_dim"],
            values["batch_size"],
            tuple(values["widths"]),
            values["iterations"],
        )
        assert (
            values["warmup"] == 0
        )  # every iteration is one of the model, as the table counts them


@pytest.mark.parametrize(
    "block", PAPERMILL, ids=lambda block: re.search(r"run_dir (\S+)", block)[1]
)
def test_papermill_commands_give_valid_parameters(block, tmp_path):
    """Injected, not run: RunConfig takes them, and the model's file has corrected the row's."""
    bash(block.replace("papermill ", "papermill --prepare-only ").replace("out", f"{tmp_path}/out"))
    for path in tmp_path.glob("*.ipynb"):
        config = injected(path)
        if config.model == "wgan_gp":
            assert (config.adam_betas, config.ema, config.dataset) == ((0.0, 0.9), 0.0, "cifar10")
        if config.dataset == "folder":
            assert (config.model, config.mirror) == ("soft_intro", True)
            assert config.widths == PUBLISHED_WIDTHS[128]
    assert len(list(tmp_path.glob("*.ipynb"))) == (3 if "for seed" in block else 1)


def injected(path):
    cells = nbformat.read(path, as_version=4).cells
    (cell,) = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    namespace = {}
    exec(cell.source, namespace)
    return RunConfig(
        **{name: value for name, value in namespace.items() if name in RunConfig.model_fields}
    )


def test_the_order_of_the_files_matters(tmp_path):
    block = block_with("wgan_gp")
    row, model = re.findall(r"-f \S+", block)
    swapped = block.replace(row, "ROW").replace(model, row).replace("ROW", model)
    bash(
        swapped.replace("papermill ", "papermill --prepare-only ").replace("out", f"{tmp_path}/out")
    )
    assert injected(tmp_path / "out.ipynb").ema == 0.999


def test_your_own_images_in_tiny_form(tmp_path):
    from PIL import Image

    (tmp_path / "images" / "below").mkdir(parents=True)
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 36, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "below" / f"{i:02d}.png")
    (tmp_path / "images" / "below" / "07.png").write_bytes(b"this is not an image")
    block = (
        block_with("own-10000")
        .replace("out.ipynb", f"{tmp_path}/out.ipynb")
        .replace("runs/mine", f"{tmp_path}/run")
    )
    block = block.replace("data_dir my-images", f"data_dir {tmp_path}/images")
    tiny = TINY | {"resolution": 16}
    papermill_here(block.replace("  -p data_dir", f"  -y '{json.dumps(tiny)}' -p data_dir"))
    record = load_run(tmp_path / "run").record
    assert (record["status"], record["skipped_images"]) == ("finished", 1)
    assert record["config"]["mirror"]


def test_two_launchers_of_a_cluster_train_one_run(tmp_path):
    """The chapter's torchrun line on one machine, as if SLURM had started it; then one process
    evaluates and records."""
    small = {"model": "as_intro", "log_every": 1, "iterations": 8, "checkpoint_every": 4}
    config = tiny_config(tmp_path / "run", **small, devices=2)
    (tmp_path / "parameters.json").write_text(config.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (line,) = [block for block in BLOCKS if block.startswith("torchrun")]
    line = line.replace("--nproc-per-node 4", "--nproc-per-node 1").replace(
        "node1:29500", f"127.0.0.1:{port}"
    )
    line = line.replace("parameters.json", str(tmp_path / "parameters.json"))
    slurm = {
        "JOB_NAME": "toy-8",
        "JOB_ID": "12345",
        "NNODES": "2",
        "NTASKS": "2",
        "NTASKS_PER_NODE": "1",
        "PROCID": "0",
    }
    slurm = {f"SLURM_{name}": value for name, value in slurm.items()}
    launchers = [threading.Thread(target=bash, args=(line,), kwargs=slurm) for _ in range(2)]
    for launcher in launchers:
        launcher.start()
    for launcher in launchers:
        launcher.join()
    assert (
        len(json.loads((tmp_path / "result.json").read_text())["history"]) == 8
    )  # it was they who trained
    together = config.model_copy(update={"devices": 1})
    data, model, objective = build(together)
    result = train(model, objective, data, together)
    save_record(together, result, evaluate(model, data, together))
    alone = tiny_config(tmp_path / "alone", **small)
    data, model, objective = build(alone)
    history = train(model, objective, data, alone).history
    assert len(result.history) == len(history) == 8
    for row, other in zip(history, result.history, strict=True):
        assert list(other.values()) == pytest.approx(list(row.values()), rel=1e-3, abs=1e-5)
    assert load_run(tmp_path / "run").record["status"] == "finished"


def test_the_batch_file_is_a_shell_script_around_the_same_line():
    batch = block_with("#SBATCH")
    assert batch.startswith("#!/")  # sbatch refuses a file without it
    assert subprocess.run(["bash", "-n"], input=batch, text=True).returncode == 0
    line = next(block for block in BLOCKS if block.startswith("torchrun"))
    for option in (
        "--nproc-per-node 4",
        "--rdzv-backend c10d",
        "-m asintrovae.running.worker parameters.json",
    ):
        assert option in batch
        assert option in line


def test_what_a_run_computes_cannot_change_on_the_way(tmp_path):
    """Of all parameters only those that the chapter lists are free; the length of a run is none of
    them."""
    config = tiny_config(tmp_path, model="as_intro")
    data, model, objective = build(config)
    train(model, objective, data, config)
    for name, value in {
        "iterations": 40,
        "seed": 1,
        "batch_size": 16,
        "ema": 0.5,
        "precision": "bf16-mixed",
    }.items():
        other = tiny_config(tmp_path, model="as_intro", **{name: value})
        with pytest.raises(ParameterError, match=f"holds another run .*{name} "):
            train(model, objective, data, other)
    free = tiny_config(
        tmp_path,
        model="as_intro",
        log_every=3,
        checkpoint_every=7,
        threads=1,
        evaluation_samples=10,
    )
    assert len(train(model, objective, data, free).history) == 4
    assert {"devices", "device", "run_dir"} - FREE_PARAMETERS == set()
    assert not FREE_PARAMETERS & {"iterations", "warmup", "c", "seed", "batch_size", "precision"}


class Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result


def networks(name, shape, n, widths, device):
    with torch.device(device):
        return (conv_gan if name == "wgan_gp" else conv_autoencoder)(shape, n, widths)


def iteration(name, shape, n, widths, B, device):
    """Operations of one iteration, and of a pass through either half."""
    model = networks(name, shape, n, widths, device)
    with torch.device(device):
        x, noise = torch.rand(B, *shape), Noise(*torch.randn(4, B, n), torch.rand(B))
    judge = model.critic if name == "wgan_gp" else model.encode
    passes = []
    for half, given in ((judge, x), (model.decode, noise.z)):
        with Operations() as operations, torch.no_grad():
            half(given)
        passes.append(operations.count)
    total = 0
    for phase in OBJECTIVES[name]().phases:
        with Operations() as operations, only_learning(model, phase.learns):
            phase.loss(model, x, noise, 0.5)[0].backward()
        total += phase.steps * operations.count
    return total, *passes


PASSES = {
    "vae": (3, 3),
    "intro": (14, 9),
    "soft_intro": (14, 13),
    "as_intro": (14, 13),
    "wgan_gp": (62, 8),
}


@pytest.mark.parametrize("name", list(PASSES))
def test_an_iteration_costs_as_many_passes_as_the_chapter_counts(name):
    total, judge, decoder = iteration(name, (3, 32, 32), 128, PUBLISHED_WIDTHS[32], 2, "meta")
    on_judge, on_decoder = PASSES[name]
    assert total < on_judge * judge + on_decoder * decoder < 1.01 * total


@pytest.mark.parametrize("name", ["as_intro", "wgan_gp"])
def test_shapes_alone_cost_what_numbers_cost(name):
    sizes = (1, 8, 8), 3, (4, 8), 2
    assert iteration(name, *sizes, "meta") == iteration(name, *sizes, "cpu")


def kept_bytes(device, autocast=False, B=4):
    """Bytes that the decoder phase keeps for its backward pass, weights and their rounded copies
    left out."""
    shape, n, widths = (1, 16, 16), 8, (8, 16)
    model = networks("as_intro", shape, n, widths, device)
    with torch.device(device):
        x, noise = torch.rand(B, *shape), Noise(*torch.randn(4, B, n), torch.rand(B))
    own, kept = {p.untyped_storage()._cdata for p in model.parameters()}, {}

    def note(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    phase = OBJECTIVES["as_intro"]().phases[0]
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with (
        hooks,
        only_learning(model, phase.learns),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        phase.loss(model, x, noise, 0.5)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


def test_memory_is_counted_without_numbers_and_grows_with_the_batch():
    assert kept_bytes("meta") == pytest.approx(kept_bytes("cpu"), rel=0.02)
    assert kept_bytes("meta", B=8) == pytest.approx(2 * kept_bytes("meta"), rel=0.05)


def test_bfloat16_nearly_halves_what_is_kept():
    rounded, exact = (
        kept_bytes("cpu", autocast, B=16) - kept_bytes("cpu", autocast, B=8)
        for autocast in (True, False)
    )
    assert 0.5 <= rounded / exact < 0.65


@pytest.mark.parametrize("kernel", ["mean", "product", "prior"])
def test_the_surplus_of_shares_over_all_ways_to_deal(generator, kernel):
    """(W - 1) / (B - 1) of the way from D to the mean distance of single pairs, exactly, by every
    permutation."""
    B, W = 6, 3
    q_r, q_g = two_posteriors(generator, B)
    means = []
    for order in itertools.permutations(range(B)):
        hands = torch.tensor(order).chunk(W)
        means.append(sum(distance(of(q_r, hand), of(q_g, hand), kernel) for hand in hands) / W)
    whole = distance(q_r, q_g, kernel)
    single = sum(distance(of(q_r, [i]), of(q_g, [i]), kernel) for i in range(B)) / B
    torch.testing.assert_close(
        sum(means) / len(means), whole + (W - 1) / (B - 1) * (single - whole)
    )
    assert min(means) > whole


def test_shares_of_the_unbiased_estimator_are_another_number(generator):
    q_r, q_g = two_posteriors(generator, 8)
    halves = [
        distance(of(q_r, half), of(q_g, half), estimator="u") for half in (slice(4), slice(4, 8))
    ]
    whole = distance(q_r, q_g, estimator="u")
    assert abs(sum(halves) / 2 - whole) > 0.05 * abs(whole)


def test_rounding_to_bfloat16_is_at_most_one_part_in_256(generator):
    a = torch.randn(100_000, generator=generator, dtype=torch.float64).exp()
    error = ((a.bfloat16().double() - a) / a).abs().max()
    assert 0.9 * 2**-8 < error <= 2**-8


def test_the_sweep_of_the_chapter_in_tiny_form(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = re.search(r"```yaml\n(notebook: .*?)```", TEXT, flags=re.DOTALL)[1]
    tiny = (
        "iterations: 6, warmup: 1, widths: [4], batch_size: 8, evaluation_samples: 20, device: cpu"
    )
    assert "iterations: 4000" in text
    path = tmp_path / "book" / "training" / "sweeps" / "board.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text.replace("iterations: 4000", tiny))
    (path.parent.parent / "toy.ipynb").write_bytes(
        (ROOT / "book" / "training" / "toy.ipynb").read_bytes()
    )
    run_dir, points = read_grid(path)
    assert run_dir == tmp_path / "runs" / "board"
    assert f"lists the {len(points)} runs" in TEXT
    assert "product/beta_kl=0.2/1" in [point.name for point in points]
    assert sweep.main([str(path), "--ensemble"]) == 0
    assert f"{len(points)} rows" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        sweep.main(["--help"])
    help_page = capsys.readouterr().out
    options = re.findall(r"asintrovae-sweep board.yaml (--[a-z-]+)", block_with("asintrovae-sweep"))
    assert len(options) == 3
    assert all(option in help_page for option in options)
