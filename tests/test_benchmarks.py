"""The benchmarks' own machinery: the references are right, and a missed target fails."""

import json
import shutil
import subprocess
import sys
import types

import pytest
import torch
from conftest import ROOT

from asintrovae import SoftIntroVAE
from asintrovae.theory.networks import Autoencoder, mlp_autoencoder
from asintrovae.theory.objectives import Noise
from benchmarks import __main__ as command
from benchmarks import book, clone, distance, training_step


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
