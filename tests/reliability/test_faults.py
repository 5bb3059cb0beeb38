"""Faults of disks, files, memory, numbers and clocks: one clear line, and nothing that was saved is
lost."""

import ast
import io
import json
import os
import pickle
import re
import resource
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest
import torch
from conftest import MODELS, ROOT, build, tiny_config

from asintrovae import ParameterError, RunConfig, load_run, save_record, train
from asintrovae.running.checkpoint import CURRENT, PREVIOUS, checksum, load_checkpoint
from asintrovae.running.loop import Loop
from asintrovae.sweeps.ensemble import train_ensemble
from asintrovae.theory.objectives import Phase

PACKAGE = ROOT / "asintrovae"


def run(config, objective=None, data=None):
    """Train config; data and objective are its own where none are given."""
    own, model, built = build(config)
    return train(model, objective or built, data or own, config)


def assert_same_run(one, other):
    """Weights, optimisers and histories of two folders, to the bit."""
    a, b = load_checkpoint(one), load_checkpoint(other)
    assert a.meta["iteration"] == b.meta["iteration"]
    assert a.meta["history"] == b.meta["history"]
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items())


class At:
    """A data set to which something happens when a certain batch is asked for."""

    def __init__(self, data, index, happens):
        self.data, self.index, self.happens = data, index, happens

    def batch(self, index):
        if index == self.index:
            self.happens()
        return self.data.batch(index)


@contextmanager
def mounted(folder, *options):
    """A file system in memory of 1 MB at `folder`; skips the test where that is not allowed."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def full(folder, how, limit=50_000):
    """A folder whose disk can be filled: yields what fills it and what empties it."""
    if how == "tmpfs":

        def fill():
            with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(4096)):
                    pass

        with mounted(folder):
            yield fill, (folder / "filler").unlink
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def unlimited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        try:
            yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard)), unlimited
        finally:
            unlimited()


@pytest.mark.parametrize(
    ("how", "reason"), [("tmpfs", "No space left on device"), ("limit", "File too large")]
)
def test_a_full_disk_leaves_both_generations(tmp_path, how, reason):
    folder = tmp_path / "run"
    small = {"iterations": 30, "widths": (64, 64)}
    config = tiny_config(folder, **small)
    run(tiny_config(tmp_path / "whole", **small))
    data, _, _ = build(config)
    with full(folder, how) as (fill, empty):
        with pytest.raises(OSError, match=reason) as caught:
            run(config, data=At(data, 23, fill))
        said = (
            f"{reason}; what was saved before is kept, and the same command goes on from it: "
            f"'{folder / CURRENT}'"
        )
        assert str(caught.value) == f"[Errno {caught.value.errno}] {said}"
        empty()
        assert not list(folder.glob("*.tmp"))
        assert [
            load_checkpoint(folder).meta["iteration"],
            len(list(folder.glob("*.safetensors"))),
        ] == [20, 2]
        run(config)
        assert_same_run(folder, tmp_path / "whole")


def test_a_record_that_cannot_be_written_leaves_the_one_before(tmp_path):
    config = tiny_config(tmp_path)
    result = run(config)
    save_record(config, result, {"psnr": 1.0})
    with full(tmp_path, "limit", 10) as (fill, _):
        fill()
        with pytest.raises(OSError, match="File too large; what was saved before is kept"):
            save_record(config, result, {"psnr": 2.0})
    assert load_run(tmp_path).record["metrics"] == {"psnr": 1.0}


def test_a_folder_that_cannot_be_written_to_is_refused_before_training(tmp_path, monkeypatch):
    data, model, objective = build(tiny_config(tmp_path))
    monkeypatch.setattr(Loop, "iterate", None)
    (tmp_path / "file").write_text("in the way")
    for run_dir in ("file", "file/below"):
        config = tiny_config(tmp_path / run_dir)
        with pytest.raises(
            ParameterError,
            match=rf"^run_dir='{config.run_dir}': '{tmp_path}/file' is a file, a run needs a "
            r"folder",
        ):
            run(config)
    with mounted(tmp_path / "mount"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "mount")], check=True)
        for run_dir in (tmp_path / "mount", tmp_path / "mount" / "below"):
            with pytest.raises(
                ParameterError,
                match=r"cannot be written to \(Read-only file system\); choose another run_dir$",
            ):
                train(model, objective, data, tiny_config(run_dir))


def test_a_begun_run_is_not_computed_where_it_cannot_be_saved(tmp_path, monkeypatch):
    """What is there can be read, and is not touched."""
    config = tiny_config(tmp_path / "mount")
    with mounted(tmp_path / "mount"):
        run(tiny_config(tmp_path / "mount"))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "mount")], check=True)
        monkeypatch.setattr(Loop, "resume", None)
        with pytest.raises(ParameterError, match=r"cannot be written to \(Read-only file system\)"):
            run(config)
        assert load_checkpoint(tmp_path / "mount").meta["iteration"] == 20


def test_a_missing_folder_is_made(tmp_path):
    run(tiny_config(tmp_path / "not" / "there" / "yet", iterations=2))
    assert load_checkpoint(tmp_path / "not" / "there" / "yet").meta["iteration"] == 2


def flipped(content, position):
    """The same bytes, but for one bit of one of them."""
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


def damages(content):
    """Damaged versions of a checkpoint, by name."""
    header = 8 + int.from_bytes(content[:8], "little")
    found = {
        "empty": b"",
        "cut in the header": content[:100],
        "cut in the data": content[:-1],
        "longer": content + b"0",
    }
    found |= {"zeros at the end": content[:-512] + bytes(512), "nothing of it": bytes(len(content))}
    for place, position in {
        "length": 1,
        "meta": content.index(b"batch_size"),
        "shape": content.index(b'shape":[') + 8,
    }.items():
        found[f"{place} flipped"] = flipped(content, position)
    for part in range(1, 8):
        found[f"data flipped at {part}/8"] = flipped(
            content, header + part * (len(content) - header) // 8
        )
    return found


def test_a_damaged_checkpoint_is_noticed_whatever_the_damage(tmp_path):
    run(tiny_config(tmp_path, iterations=30))
    path = tmp_path / CURRENT
    whole = path.read_bytes()
    for name, content in damages(whole).items():
        assert content != whole
        path.write_bytes(content)
        with pytest.warns(
            UserWarning, match=rf"^{path} is damaged \(.+\); going back to iteration 20, before it$"
        ):
            assert load_checkpoint(tmp_path).meta["iteration"] == 20, name


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_run_goes_back_to_the_generation_before_and_keeps_it(tmp_path, monkeypatch, ensemble):
    """The damaged file must not become the one to fall back on."""
    config, whole = (
        tiny_config(tmp_path / "run", iterations=30),
        tiny_config(tmp_path / "whole", iterations=30),
    )
    go = (lambda config: train_ensemble([config])) if ensemble else run
    go(config)
    go(whole)
    good = (tmp_path / "run" / PREVIOUS).read_bytes()
    path = tmp_path / "run" / CURRENT
    path.write_bytes(damages(path.read_bytes())["data flipped at 4/8"])
    monkeypatch.setattr(Loop, "run", lambda *_: None)
    with pytest.warns(UserWarning, match="is damaged"):
        go(config)
    monkeypatch.undo()
    assert path.read_bytes() == good
    assert not (tmp_path / "run" / PREVIOUS).exists()
    go(config)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_two_damaged_generations_are_an_error_that_names_both(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    run(config)
    contents = {}
    for name in (CURRENT, PREVIOUS):
        contents[name] = damages((tmp_path / name).read_bytes())["data flipped at 2/8"]
        (tmp_path / name).write_bytes(contents[name])
    monkeypatch.setattr(Loop, "iterate", None)
    reason = r"is damaged \(its content does not fit its checksum\)"
    both = rf"{tmp_path / CURRENT} {reason} and {tmp_path / PREVIOUS} {reason}"
    for attempt in (run, lambda config: train_ensemble([config])):
        with pytest.raises(
            ParameterError,
            match=rf"^run_dir='{tmp_path}' holds no whole checkpoint: {both}; put back a copy, or",
        ):
            attempt(config)
    assert {name: (tmp_path / name).read_bytes() for name in contents} == contents


def test_a_checkpoint_from_before_there_were_checksums_is_read(tmp_path):
    from safetensors.torch import save

    run(tiny_config(tmp_path))
    saved = load_checkpoint(tmp_path)
    text = json.dumps(saved.meta)
    (tmp_path / CURRENT).write_bytes(save(saved.tensors, {"json": text}))
    assert load_checkpoint(tmp_path).meta == saved.meta
    (tmp_path / CURRENT).write_bytes(
        save(saved.tensors, {"json": text, "sha256": checksum(saved.tensors, text + " ")})
    )
    with pytest.warns(UserWarning, match="is damaged"):
        load_checkpoint(tmp_path)


class Malicious:
    """A pickle of this runs a command when it is read."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_in_the_place_of_a_checkpoint_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for make in (lambda: pickle.dumps(Malicious()), malicious_archive):
        (tmp_path / CURRENT).write_bytes(make())
        with pytest.raises(ParameterError, match="holds no whole checkpoint"):
            run(tiny_config(tmp_path))
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Malicious()))
    assert (tmp_path / "executed").exists()


def malicious_archive():
    file = io.BytesIO()
    torch.save({"weights": Malicious()}, file)
    return file.getvalue()


def test_nothing_in_the_package_reads_or_writes_pickles():
    """But for the weights of the Inception network, which are published in no other format: read as
    tensors alone."""
    words = re.compile(
        r"pickle\.\w*(?:load|dump|Pickler)\w*|torch\.save|torch\.load\([^)]*\)|allow_pickle=True|joblib|dill|shelve"
    )
    texts = {
        path.relative_to(PACKAGE).as_posix(): ast.unparse(ast.parse(path.read_text()))
        for path in PACKAGE.rglob("*.py")
    }
    assert len(texts) > 20
    found = {name: words.findall(text) for name, text in texts.items() if words.search(text)}
    assert found == {
        "evaluation/features.py": ["torch.load(weights, map_location='cpu', weights_only=True)"]
    }
    imports = [
        name for name, text in texts.items() if re.search(r"(?m)^\s*(import|from) c?pickle", text)
    ]
    assert imports == ["evaluation/features.py"]  # for the name of an error


class Spoilt:
    """An objective; one term, or the loss, of one phase has another value at one iteration."""

    def __init__(self, objective, phase, term, value, at):
        self.objective, self.phase, self.term, self.value, self.at = (
            objective,
            phase,
            term,
            value,
            at,
        )

    @property
    def phases(self):
        phases = self.objective.phases
        return tuple(
            Phase(p.name, p.learns, self.spoilt(p)) if p.name == self.phase else p for p in phases
        )

    def spoilt(self, phase):
        def loss(model, x, noise, progress):
            value, terms = phase.loss(model, x, noise, progress)
            if progress != self.at:
                return value, terms
            bad = torch.tensor(self.value)
            return (
                (value * bad, terms) if self.term == "loss" else (value, {**terms, self.term: bad})
            )

        return loss


@pytest.mark.parametrize("model_name", MODELS)
def test_a_number_that_is_not_finite_in_any_term(tmp_path, model_name):
    small = {
        "model": model_name,
        "iterations": 8,
        "log_every": 4,
        "checkpoint_every": 4,
        "warmup": 0,
        "c": 0.5,
    }
    small["critic_steps"] = 1
    whole = run(tiny_config(tmp_path / "whole", **small))
    terms = [name.split(".") for name in whole.history[0] if name != "iteration"]
    assert len(terms) >= 3
    for phase, term in terms:
        for value in ("nan", "inf"):
            config = tiny_config(tmp_path / f"{phase}.{term}{value}", **small)
            _, model, objective = build(config)
            result = train(
                model, Spoilt(objective, phase, term, float(value), 5 / 8), build(config)[0], config
            )
            assert (result.divergence.iteration, result.divergence.term) == (5, f"{phase}.{term}")
            assert load_checkpoint(tmp_path / f"{phase}.{term}{value}").meta["iteration"] == 4
            assert result.history == whole.history[:1]
            assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def out_of_memory():
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB.\nMore that nobody reads."
    )


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_batch_that_does_not_fit_names_the_way_out(tmp_path, monkeypatch, ensemble):
    config = tiny_config(tmp_path)
    step = Loop.step
    monkeypatch.setattr(
        Loop,
        "step",
        lambda loop, *given: out_of_memory() if given[-1] == 13 / 20 else step(loop, *given),
    )
    said = (
        "batch_size=32 with precision='32-true' does not fit (CUDA out of memory. Tried to "
        "allocate 2.00 GiB.); lower batch_size "
        "or use precision='bf16-mixed', in another run_dir, or more devices, also in this one"
    )
    with pytest.raises(torch.OutOfMemoryError, match=rf"^{re.escape(said)}$"):
        train_ensemble([config]) if ensemble else run(config)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).meta["iteration"] == 10
    assert len((train_ensemble([config])[0] if ensemble else run(config)).history) == 4


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_clock_that_jumps_changes_no_number_but_the_seconds(tmp_path, monkeypatch, ensemble):
    def go(folder):
        config = tiny_config(tmp_path / folder, iterations=30, checkpoint_every=3)
        return train_ensemble([config])[0] if ensemble else run(config)

    steady = go("steady")
    jumps = iter(range(10**6))
    monkeypatch.setattr("asintrovae.running.loop.time.monotonic", lambda: -1000.0 * next(jumps))
    monkeypatch.setattr(time, "time", lambda: 1e9 * (-1) ** next(jumps))
    backwards = go("backwards")
    monkeypatch.undo()
    assert backwards.seconds == 0
    assert load_checkpoint(tmp_path / "backwards").meta["seconds"] == 0
    assert backwards.history == steady.history
    assert_same_run(tmp_path / "backwards", tmp_path / "steady")
    assert steady.seconds > 0


def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path):
    run(tiny_config(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert len(before) == 2
    with pytest.raises(
        ParameterError,
        match=r"holds another run \(latent_dim 2 there, 3 here, ema 0\.0 there, 0\.5 here\)",
    ):
        run(RunConfig(**{**tiny_config(tmp_path).model_dump(), "latent_dim": 3, "ema": 0.5}))
    assert {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before
