"""Data that disappear, break or change under a run: said in one line, nothing saved is lost,
nothing false is recorded."""

import functools
import gzip
import hashlib
import json
import os
import shutil
import signal
import tarfile
import threading
import warnings
from contextlib import ExitStack
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import build
from image_layouts import LAYOUTS, datasets, save

from asintrovae import ParameterError, RunConfig, build_data, evaluate, save_record, train
from asintrovae.data import ToyData, images, sources, toy_density
from asintrovae.data.images import StreamedImages
from asintrovae.data.sources import find_images, read_idx
from asintrovae.running.checkpoint import load_checkpoint
from asintrovae.running.loop import Loop

each_way = pytest.mark.parametrize("workers", [0, 1])


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of eleven images, nine of them for training, streamed."""
    monkeypatch.setattr(images, "MEMORY_LIMIT", 0)
    LAYOUTS["folder"][0](tmp_path / "pictures", monkeypatch)
    return tmp_path / "pictures"


def config(folder, run_dir, **parameters):
    small = {
        "resolution": 16,
        "batch_size": 3,
        "widths": (2, 2),
        "iterations": 12,
        "model": "vae",
        "latent_dim": 3,
        "workers": 0,
    }
    few = {"device": "cpu", "evaluation_samples": 2, "log_every": 1, "checkpoint_every": 2}
    return RunConfig(
        **{
            **small,
            **few,
            "dataset": "folder",
            "data_dir": str(folder),
            "run_dir": str(run_dir),
            **parameters,
        }
    )


def trained(run, harm=lambda: None, at=5):
    """Train, and do harm as iteration `at` begins."""

    def iterate(loop, i):
        if i == at:
            harm()
        return whole(loop, i)

    whole = Loop.iterate
    data, network, objective = build(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "iterate", iterate)
        return train(network, objective, data, run), network, data


def saved(run):
    return load_checkpoint(Path(run.run_dir)).meta["iteration"]


def same(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("harm", "workers"),
    [
        (Path.unlink, 0),
        (lambda path: os.truncate(path, 70), 1),
        (lambda path: path.write_bytes(b""), 1),
    ],
)
def test_an_image_that_breaks_under_a_run_is_named_counted_and_replaced(
    harm, workers, pictures, tmp_path
):
    run = config(pictures, tmp_path / "run", workers=workers, model="soft_intro", warmup=2)
    victim = find_images("folder", str(pictures))[0][4]
    with pytest.warns(
        UserWarning, match=rf"images left out because they cannot be read: .*{victim.name} \("
    ) as caught:
        result, network, data = trained(run, lambda: harm(victim))
    assert all("\n" not in str(warning.message) for warning in caught)
    assert (len(result.history), data.skipped_images) == (12, 1)
    record = save_record(run, result, evaluate(network, data, run), data.skipped_images)
    assert (record["status"], record["skipped_images"]) == ("finished", 1)


@each_way
def test_with_strict_images_the_run_stops_there_and_goes_on_when_the_image_is_back(
    workers, pictures, tmp_path
):
    _, whole, _ = trained(config(pictures, tmp_path / "whole"))
    run = config(pictures, tmp_path / "run", workers=workers, strict_images=True)
    victim = find_images("folder", str(pictures))[0][4]
    content = victim.read_bytes()
    with pytest.raises(
        ValueError,
        match=rf"^strict_images=True and 1 unreadable: .*{victim.name} .*; repair or remove[^\n]*$",
    ):
        trained(run, lambda: victim.write_bytes(content[:50]))
    assert saved(run) >= 4
    victim.write_bytes(content)
    _, network, _ = trained(run)
    assert same(network, whole)


@each_way
def test_a_folder_that_disappears_stops_the_run_and_it_goes_on_when_the_folder_is_back(
    workers, pictures, tmp_path
):
    result, whole, _ = trained(config(pictures, tmp_path / "whole"))
    run = config(pictures, tmp_path / "run", workers=workers)
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(
            ValueError,
            match=r"^9 images in a row cannot be read, the first is .*\(No such file "
            r"[^\n]+\)[^\n]*checkpoint$",
        ),
    ):
        trained(run, lambda: pictures.rename(tmp_path / "elsewhere"))
    assert saved(run) >= 4
    with pytest.raises(
        FileNotFoundError, match=r"data_dir='.*pictures' is not a folder; name a folder"
    ):
        build_data(run)
    moved = run.model_copy(update={"data_dir": str(tmp_path / "elsewhere")})
    rest, network, data = trained(moved)
    assert same(network, whole)
    assert rest.history == result.history
    assert data.skipped_images is None, (
        "the part before the interruption met images that this one knows nothing of"
    )


def test_images_in_memory_need_their_files_no_longer(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MEMORY_LIMIT", 2**30)
    _, whole, _ = trained(config(pictures, tmp_path / "whole"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, network, data = trained(
            config(pictures, tmp_path / "run"), lambda: shutil.rmtree(pictures)
        )
    assert same(network, whole)
    assert (len(data.evaluation(2)), data.skipped_images) == (2, 0)


def test_test_images_that_are_gone_by_the_end_are_named(pictures, tmp_path):
    run = config(pictures, tmp_path / "run")
    tests = find_images("folder", str(pictures))[1]
    _, network, data = trained(run)
    for path in tests:
        path.unlink()
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"^2 images in a row .*No such file"),
    ):
        evaluate(network, data, run)
    assert saved(run) == 12


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.filterwarnings("ignore:images left out")
def test_a_split_without_a_readable_image_is_refused_before_training(
    split, limit, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(images, "MEMORY_LIMIT", limit)
    for path in find_images("folder", str(pictures))[split]:
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"images in a row cannot be read, the first is .*no image"
    ):
        build_data(config(pictures, tmp_path / "run"))


def test_a_decoding_process_that_is_killed_stops_the_run_in_one_line(pictures, tmp_path):
    _, whole, _ = trained(config(pictures, tmp_path / "whole", iterations=20, checkpoint_every=1))
    run = config(pictures, tmp_path / "run", iterations=20, checkpoint_every=1, workers=1)
    others = set(psutil.Process().children())  # what earlier tests of this process have left

    def kill():
        (worker,) = set(psutil.Process().children()) - others
        worker.send_signal(signal.SIGKILL)

    # torch's own line where its signal handler is faster than the next batch.
    said = (
        r"^(workers=1: one that decodes images ended \([^\n]+last checkpoint[^\n]+|DataLoader "
        r"worker [^\n]+ killed by [^\n]+)$"
    )
    with pytest.raises(RuntimeError, match=said):
        trained(run, kill, at=9)
    assert saved(run) >= 9
    _, network, _ = trained(run.model_copy(update={"workers": 0}))
    assert same(network, whole)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 1)\nis killed"),
        EOFError(),
        ConnectionResetError(104, "reset"),
    ],
)
def test_after_any_end_of_a_decoding_process_the_next_batch_comes_from_a_new_one(
    error, pictures, tmp_path
):
    """The error names the parameter."""
    data = build_data(config(pictures, tmp_path))
    first, second = data.batch(0), data.batch(1)

    def broken():
        raise error
        yield

    data.batch(0)
    data._stream = broken()
    with pytest.raises(
        RuntimeError,
        match=r"^workers=0: one that decodes images ended \([^\n]+\); start the run again[^\n]+$",
    ):
        data.batch(1)
    assert torch.equal(data.batch(1), second)
    assert torch.equal(data.batch(0), first)


def test_what_nobody_counted_is_recorded_as_unknown(pictures, tmp_path):
    """Each process knows what it met since it began: not the whole of a resumed run, nor of one in
    several processes."""
    run = config(pictures, tmp_path / "run")
    result, network, data = trained(run)
    assert data.skipped_images == 0
    again = build_data(run)
    assert again.skipped_images == 0
    again.batch(6)
    assert again.skipped_images is None
    assert build_data(config(pictures, tmp_path / "run", devices=3)).skipped_images is None
    save_record(run, result, evaluate(network, data, run), again.skipped_images)
    assert json.loads((tmp_path / "run" / "record.json").read_text())["skipped_images"] is None


# Which data


def test_the_fingerprint_is_that_of_the_images_wherever_they_lie_and_however_they_are_served(
    pictures, tmp_path, monkeypatch
):
    run = config(pictures, tmp_path)
    first = build_data(run).fingerprint
    assert len(first) == 64
    shutil.copytree(pictures, tmp_path / "other" / "place")
    monkeypatch.chdir(tmp_path / "other")
    assert {
        build_data(config(path, tmp_path)).fingerprint
        for path in ("place", tmp_path / "other/place")
    } == {first}
    assert (
        build_data(config(pictures, tmp_path, seed=3, resolution=8, batch_size=2)).fingerprint
        == first
    )
    monkeypatch.setattr(images, "MEMORY_LIMIT", 2**30)
    assert build_data(run).fingerprint == first


def test_a_run_goes_on_wherever_its_images_lie_and_not_with_others(pictures, tmp_path):
    run = config(pictures, tmp_path / "run")
    with pytest.raises(InterruptedError):
        trained(run, lambda: (_ for _ in ()).throw(InterruptedError))
    assert saved(run) == 4
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    shutil.copytree(pictures, tmp_path / "other")
    save(tmp_path / "other" / "a" / "01.JPG", 77)
    with pytest.raises(
        ParameterError,
        match=r"^data_dir='[^\n]+other' holds other data than run_dir='[^\n]+run' was begun with; "
        r"[^\n]+$",
    ):
        trained(config(tmp_path / "other", tmp_path / "run"))
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    pictures.rename(tmp_path / "moved")
    trained(config(tmp_path / "moved", tmp_path / "run"))
    assert saved(run) == 12


@pytest.mark.parametrize("limit", [0, 2**30])
def test_other_images_have_another_fingerprint(limit, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MEMORY_LIMIT", limit)
    found = [build_data(config(pictures, tmp_path)).fingerprint]
    changes = {
        "another shade": lambda: save(pictures / "a" / "01.JPG", 77),
        "another name": lambda: (pictures / "a" / "01.JPG").rename(pictures / "a" / "01b.JPG"),
        "one more": lambda: save(pictures / "zz.png", 3),
        "two less": lambda: [path.unlink() for path in sorted(pictures.rglob("*.bmp"))[:2]],
    }
    for what, change in changes.items():
        change()
        found.append(build_data(config(pictures, tmp_path)).fingerprint)
        assert len(set(found)) == len(found), what


def test_an_unreadable_image_changes_the_numbering_in_memory_and_so_the_fingerprint(
    pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(images, "MEMORY_LIMIT", 2**30)
    before = build_data(config(pictures, tmp_path)).fingerprint
    monkeypatch.setattr(sources, "beginning", lambda path: b"")
    whole = build_data(config(pictures, tmp_path)).fingerprint
    find_images("folder", str(pictures))[0][0].write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        spoilt = build_data(config(pictures, tmp_path)).fingerprint
    assert len({before, whole, spoilt}) == 3


def test_fingerprints_of_sets_that_are_no_image_files():
    digits = build_data(RunConfig(dataset="mnist-subset", device="cpu"))
    train_images, test_images = find_images("mnist-subset")
    assert digits.fingerprint == sources.fingerprint(train_images, test_images, 6000)
    changed = train_images.clone()
    changed[0, 0, 14, 14] += 1
    assert sources.fingerprint(changed, test_images, 6000) != digits.fingerprint
    points = {
        name: ToyData(toy_density(name), 8, 0, torch.device("cpu")).fingerprint
        for name in ("rings", "checkerboard")
    }
    assert points == {"rings": "Rings", "checkerboard": "Checkerboard"}


# Where they come from


def idx(pixels):
    header = b"\0\0\x08" + bytes([pixels.ndim]) + np.array(pixels.shape, ">u4").tobytes()
    return header + pixels.tobytes()


@pytest.fixture
def server(monkeypatch):
    """Hands out the files of a folder to this machine alone: folder -> its address."""
    monkeypatch.setenv("no_proxy", "*")
    with ExitStack() as running:

        def serve(folder):
            handler = functools.partial(Quiet, directory=folder)
            here = running.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=here.serve_forever, args=(0.01,), daemon=True).start()
            running.callback(here.shutdown)
            return f"http://127.0.0.1:{here.server_port}"

        yield serve


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch, server):
    """A place that hands out a small MNIST, whose checksums are those that are asked for."""
    folder, sums = tmp_path / "mirror", []
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in sources.MNIST_FILES:
        pixels = generator.integers(0, 255, (20, 28, 28), dtype=np.uint8)
        monkeypatch.setitem(
            sources.MNIST_SHA256, name, hashlib.sha256(pixels.tobytes()).hexdigest()
        )
        for file, content in (
            (name, pixels),
            (name.replace("images-idx3", "labels-idx1"), pixels[:, 0, 0]),
        ):
            (folder / file).write_bytes(gzip.compress(idx(content)))
            sums.append((file, hashlib.md5((folder / file).read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server(folder)}/"])
    return folder


def digits(root, **parameters):
    return build_data(
        RunConfig(dataset="mnist", data_dir=str(root), batch_size=4, device="cpu", **parameters)
    )


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-30],
        lambda content: gzip.compress(idx(np.ones((20, 28, 28), np.uint8))),
    ],
)
def test_a_download_with_a_wrong_checksum_is_refused_and_never_used(harm, mirror, tmp_path):
    """Truncated on the way, or other images altogether; fetched again, it replaces what was wrong
    and nothing else."""
    good, bad = (mirror / name for name in sources.MNIST_FILES)
    content, root = bad.read_bytes(), tmp_path / "data"
    bad.write_bytes(harm(content))
    with pytest.raises(
        FileNotFoundError,
        match=r"^dataset='mnist': the download into .*data failed \([^\n]*corrupted[^\n]*$",
    ):
        digits(root, download=True)
    raw = root / "MNIST" / "raw"
    assert (raw / good.name).read_bytes() == good.read_bytes()
    with pytest.raises(
        ValueError,
        match=rf"{bad.name} (is not a whole IDX file|does not hold the images of MNIST).*; delete "
        r"it",
    ):
        digits(root)
    bad.write_bytes(content)
    good.unlink()  # it is there already, and stays
    assert len(digits(root, download=True).evaluation(99)) == 20
    assert len(digits(root).evaluation(99)) == 20


def test_without_a_network_the_ways_out_are_named(mirror, tmp_path):
    shutil.rmtree(mirror)
    with pytest.raises(
        FileNotFoundError,
        match=r"^dataset='mnist': the download into .* failed \([^\n]+\); start again where[^\n]+$",
    ):
        digits(tmp_path / "data", download=True)


def test_an_archive_with_a_wrong_checksum_is_not_unpacked(tmp_path, monkeypatch, server):
    archive = tmp_path / "cifar-10-python.tar.gz"
    (tmp_path / "planted").write_text("planted")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "planted", "cifar-10-batches-py/data_batch_1")
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{server(tmp_path)}/{archive.name}")
    with pytest.raises(
        FileNotFoundError, match=r"dataset='cifar10': the download into .*data failed .*corrupted"
    ):
        build_data(
            RunConfig(
                dataset="cifar10", data_dir=str(tmp_path / "data"), download=True, device="cpu"
            )
        )
    assert not list((tmp_path / "data").rglob("data_batch_1"))


def test_files_that_are_whole_but_no_mnist_are_refused(mirror, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(mirror, raw)
    assert digits(tmp_path / "data").shape == (1, 28, 28)
    name = sources.MNIST_FILES[0]
    for pixels in (
        np.zeros((20, 28, 28), np.uint8),
        np.zeros((20, 32, 32), np.uint8),
        np.zeros(20, np.uint8),
    ):
        (raw / name).write_bytes(gzip.compress(idx(pixels)))
        with pytest.raises(
            ValueError,
            match=rf"{name} does not hold the images of MNIST; delete it and fetch it again",
        ):
            digits(tmp_path / "data")


def test_unpacked_files_are_read_as_torchvision_reads_them(mirror, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(mirror, raw)
    before = digits(tmp_path / "data")
    for packed in raw.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    after = digits(tmp_path / "data")
    assert torch.equal(after.train, before.train)
    assert torch.equal(after.evaluation(9), before.evaluation(9))
    name = sources.MNIST_FILES[0].removesuffix(".gz")
    os.truncate(raw / name, 99)
    with pytest.raises(
        ValueError, match=rf"{name} is not a whole IDX file of bytes; delete it and fetch it again"
    ):
        digits(tmp_path / "data")


@pytest.mark.parametrize("below", ["MNIST", "MNIST/raw"])
def test_the_folder_of_mnist_itself_is_named_with_the_right_one(below, mirror, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(mirror, root / "MNIST" / "raw")
    message = (
        rf"'{root / below}' is within the data set; set data_dir='{root}', the folder that holds "
        r"MNIST/raw/$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        digits(root / below)


@pytest.mark.parametrize("shape", [(2**16, 2**16, 2**16, 2**16), (0, 28, 28), (2**32 - 1,) * 255])
def test_a_file_that_declares_an_impossible_shape_is_refused(shape, tmp_path):
    header = b"\0\0\x08" + bytes([len(shape)]) + np.array(shape, ">u4").tobytes()
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + b"\0"))
    with pytest.raises(ValueError, match=r"a\.gz is not a whole IDX file of bytes"):
        read_idx(tmp_path / "a.gz")


def test_the_streamed_set_of_these_tests_is_streamed(pictures, tmp_path):
    assert isinstance(build_data(config(pictures, tmp_path)), StreamedImages)
