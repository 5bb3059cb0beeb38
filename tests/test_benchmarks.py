"""The benchmarks' own machinery: the references are right, and a missed target fails."""

import json
import re
import shutil
import subprocess
import sys
import types

import appendices
import pytest
import torch
from conftest import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode

from asintrovae import RunConfig, SoftIntroVAE
from asintrovae.theory.networks import Autoencoder, mlp_autoencoder
from asintrovae.theory.objectives import Noise
from benchmarks import __main__ as command
from benchmarks import book, clone, distance, roofline, training_step


@pytest.mark.parametrize("kernel", distance.KERNELS)
@pytest.mark.parametrize("members", [0, 2])
def test_reference_and_package_agree(kernel, members):
    assert 0 <= distance.error(9, 3, members, kernel) < 1e-12


@pytest.mark.parametrize("missed", [[], ["twice as fast"]])
def test_a_missed_target_fails_and_what_was_measured_is_kept(tmp_path, monkeypatch, capsys, missed):
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "names", ["other"])
    results = tmp_path / "results"
    for value in (1, 2):
        module = types.SimpleNamespace(run=lambda value=value: ({"rows": [value]}, missed))
        monkeypatch.setitem(sys.modules, "benchmarks.other", module)
        assert command.main([]) == len(missed)
        (path,) = results.iterdir()
        found = json.loads(path.read_text())
        assert found["other"]["rows"] == [value]
        assert {"processor", "threads", "torch"} <= found["other"]["machine"].keys()
    assert ("MISSED other: twice as fast" in capsys.readouterr().out) == bool(missed)
    assert command.main(["nothing"]) == 2


def test_the_eager_iteration_is_that_of_the_equations(monkeypatch):
    """Losses and steps of both halves, with the noise that the package takes as an argument held at
    zero."""
    package: Autoencoder = mlp_autoencoder(2, 2, (8,) * 4)
    encoder, decoder = training_step.toy_halves(8)
    for half, theirs in ((encoder, package.encoder), (decoder, package.decoder)):
        half.load_state_dict(
            dict(zip(half.state_dict(), theirs.state_dict().values(), strict=True))
        )
    x, prior, zero = *torch.randn(2, 16, 2), torch.zeros(16, 2)
    monkeypatch.setattr(training_step, "sampled", lambda q: q[0])
    monkeypatch.setattr(training_step.torch, "randn", lambda *_, **__: prior)
    eager = training_step.Eager(encoder, decoder, lambda: x, 2)
    eager.gamma_r = 0.1
    eager.optimizers[0].param_groups[0]["lr"] = (
        0.0  # as published, the decoder phase keeps the latents of the encoder before its step
    )
    objective = SoftIntroVAE(*training_step.WEIGHTS.values(), gamma_r=0.1, detach_fakes=False)
    noise = Noise(zero, prior, zero, zero, zero[:, 0])
    losses = [phase.loss(package, x, noise, 0.0)[0] for phase in objective.phases]
    looked_at = (x - package.decode(package.encode(x).mean)).square().sum(1).mean()
    assert eager() == pytest.approx([value.item() for value in (*losses, looked_at)], rel=1e-5)
    for loss, half, learns in zip(
        losses, (package.encoder, package.decoder), (encoder, decoder), strict=True
    ):
        gradients = torch.autograd.grad(loss, list(half.parameters()))
        torch.testing.assert_close(
            [p.grad for p in learns.parameters()], list(gradients), rtol=1e-4, atol=1e-6
        )


def test_points_one_by_one_are_the_data_set():
    x = training_step.points(4000)
    angle = torch.atan2(x[:, 1], x[:, 0]) / (torch.pi / 4)
    assert (x.norm(dim=1) - 2**0.5).abs().max() < 0.1
    assert (angle - angle.round()).abs().max() < 0.1
    assert len(angle.round().remainder(8).unique()) == 8


def test_the_bare_iteration_is_the_loop_s(tmp_path):
    """What the overhead is measured against leaves out nothing that moves a weight."""
    given = {
        **training_step.LAPTOP,
        "widths": (8,),
        "batch_size": 16,
        "iterations": 4,
        "model": "soft_intro",
    }
    plain, whole = training_step.loop_of(**given), training_step.loop_of(**given)
    training_step.bare(plain, 4)
    whole.run("whole")
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.model.parameters(), whole.model.parameters(), strict=True)
    )
    assert len(whole.result.history) == 1


def test_importing_the_package_brings_nothing_heavy():
    """Training, images, figures and sweeps bring what they need when it is needed; seconds each."""
    assert book.imported() == []


def test_the_book_s_table_has_every_chapter():
    assert len(book.chapters()) >= 12
    assert all(seconds > 0 for seconds in book.chapters().values())


def test_the_memory_of_a_process_is_its_own():
    """Not what its parent held when it started it: there it would never have grown."""
    held = torch.ones(10**8)
    found = distance.peak_memory("dense", 128, 64)
    assert held.nbytes < distance.most_held() > found["most"]
    assert found["grown"] > 128**2 * 64 * 4


def test_a_stage_is_timed_where_it_succeeds(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    tool = shutil.copy(ROOT / "book" / "tools" / "timed.py", tmp_path / "a" / "b" / "timed.py")
    waits = "import time; time.sleep(0.3)"
    for stage, code in (("good", waits), ("bad", "raise SystemExit(3)"), ("better", waits)):
        status = subprocess.call([sys.executable, tool, stage, sys.executable, "-c", code])
        assert status == (3 if stage == "bad" else 0)
    found = json.loads((tmp_path / "_build" / "seconds.json").read_text())
    assert found.keys() == {"good", "better"}
    assert all(0.25 < seconds < 60 for seconds in found.values())


MAKEFILE = """
test book:
	@test -z "$$PYTHONPATH$$OMP_NUM_THREADS" && mkdir _build
	@echo '{"tests": %d}' > _build/seconds.json
"""


def test_make_is_timed_in_fresh_clones_of_the_commits_that_are_named(tmp_path, monkeypatch):
    """Without what this environment sets; a command that fails says what it printed."""
    monkeypatch.setattr(clone, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    clone.git("init", "-q")
    for text in (MAKEFILE % 1, MAKEFILE % 2, "test:\n\t@echo broken; false\n"):
        (tmp_path / "Makefile").write_text(text)
        clone.git("add", "Makefile")
        clone.git(*who, "commit", "-qm", "a")
    rows = clone.measure(["HEAD~2", "HEAD~1"])
    assert [row["test"]["stages"] for row in rows] == [{"tests": 1}, {"tests": 2}]
    assert rows[0]["commit"] == clone.git("rev-parse", "HEAD~2")[:7]
    assert all(0 <= row[target]["seconds"] < 60 for row in rows for target in clone.TARGETS)
    with pytest.raises(RuntimeError, match=r"make test failed at \w{7}:\nbroken"):
        clone.measure(["HEAD"])


def counted(work):
    """Operations of work on fake tensors."""
    with FakeTensorMode(), roofline.Operations() as found:
        work()
    return found.done


def test_the_flop_of_a_small_network_are_those_counted_by_hand():
    """Forward, then the gradients of both weights and of the hidden layer."""
    B, a, h, c = 5, 3, 7, 2

    def work():
        network = torch.nn.Sequential(torch.nn.Linear(a, h), torch.nn.ReLU(), torch.nn.Linear(h, c))
        network(torch.rand(B, a)).sum().backward()

    assert sum(done.flop for done in counted(work)) == 4 * B * a * h + 6 * B * h * c


def test_the_bytes_of_an_operation_are_those_of_its_inputs_and_outputs():
    def work():
        x, y = torch.empty(3, 4), torch.empty(4, 5)
        _ = x @ y
        x.add_(torch.empty(1, 1).expand(3, 4))  # x twice, and one number
        torch._foreach_add_([x], [torch.empty(3, 4)])  # x twice, which it does not return

    sizes = [4 * (3 * 4 + 4 * 5 + 3 * 5), 4 * (2 * 12 + 1), 4 * 3 * 12]
    assert [done.bytes for done in counted(work)] == sizes


def test_an_estimate_is_that_of_the_formula_and_falls_with_the_bandwidth():
    operations = [roofline.Operation(1, 0, 10**9), roofline.Operation(2, 10, 10)]
    slow = roofline.Card(1e9, 1e9, {"32-true": 1e12})
    assert roofline.seconds(operations, slow, "32-true") == pytest.approx(
        {"launches": 1e-5, "memory": 1 / 0.8, "arithmetic": 0}
    )
    fast = slow._replace(bandwidth=2e9)
    hours = [roofline.estimate(operations, card, "32-true", 100)["hours"] for card in (slow, fast)]
    assert hours[1][0] < hours[0][0]
    assert hours[0][1] <= hours[0][0] <= hours[0][2]


def test_launches_are_those_of_the_pretended_gpu_up_to_4_percent():
    text = (ROOT / "book/appendix/speed.md").read_text()
    expected = int(re.search(r"^\| S-IntroVAE \| \d+ → (\d+)", text, re.MULTILINE)[1])
    points = {"batch_size": 32, "widths": (16,), "iterations": 4, "warmup": 0, "ema": 0.9}
    operations, _ = roofline.iteration(RunConfig(model="soft_intro", device="cpu", **points))
    assert sum(done.kernels for done in operations) == pytest.approx(expected, rel=0.04)


def test_the_record_of_the_estimates_holds_every_file_of_parameters():
    """And what is counted now, where torch is the version that was counted."""
    record = json.loads(roofline.RESULT.read_text())["roofline"]
    rows = {(row["params"], row["model"]): row for row in record["rows"]}
    names = [path.stem for path in roofline.PARAMS.glob("*.yaml")]
    models = [(roofline.ALL_MODELS, model) for model in roofline.MODELS]
    assert rows.keys() == {*((name, "soft_intro") for name in names), *models}
    if record["torch"] == torch.__version__:
        now = roofline.row("8gaussians-c1")
        assert rows["8gaussians-c1", "soft_intro"] == json.loads(json.dumps(now))


def test_the_hours_of_a_gpu_day_are_those_of_the_model():
    """Of each data set the hours of S-IntroVAE, times what the five models of CIFAR-10 take of
    them."""
    record = json.loads(roofline.RESULT.read_text())["roofline"]
    hours = {
        (row["params"], row["model"]): row["cards"]["H200"]["tf32"]["hours"][0]
        for row in record["rows"]
    }
    soft = [hours[row, "soft_intro"] for row in ("mnist", "cifar10", "oxford")]
    five = sum(hours["cifar10", model] for model in roofline.MODELS)
    assert round(sum(soft) * five / hours["cifar10", "soft_intro"]) == 4
    page = " ".join((ROOT / "book/appendix/gpu.md").read_text().split())
    assert "all fifteen runs take some four hours of an H200 with `tf32`" in page


def test_the_tables_of_the_page_on_gpus_are_built():
    page = (ROOT / "book/appendix/gpu.md").read_text()
    parts = re.findall(r"```\{roofline\} (\S+)", page)
    tables = {part: appendices.roofline(ROOT / "book", part) for part in parts}
    assert tables.keys() == {"32-true", "tf32", "bf16-mixed", "models", "cards", "work"}
    for path in roofline.PARAMS.glob("*.yaml"):
        name = re.sub(r"-c\d$", "", path.stem)
        assert all(f"`{name}`" in tables[part] for part in ("32-true", "tf32", "work"))
    assert all(f"`{model}`" in tables["models"] for model in roofline.MODELS)
    assert "needs 17 GB" in tables["32-true"]


def test_the_days_that_the_page_on_gpus_names_are_those_of_the_record():
    path = ROOT / "benchmarks" / "results" / "roofline.json"
    rows = json.loads(path.read_text())["roofline"]["rows"]
    (row,) = (r for r in rows if (r["params"], r["model"]) == ("celeba128", "soft_intro"))
    days = [row["cards"][card]["32-true"]["hours"][0] / 24 for card in ("T4", "A100", "H200")]
    assert days == pytest.approx([5, 2, 0.5], rel=0.15)
