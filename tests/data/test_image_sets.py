"""Every image data set, from its parameters to batches and a few steps, on tiny copies in the real
layouts."""

import itertools
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from conftest import MODELS, build
from image_layouts import LAYOUTS, datasets, save
from PIL import Image
from test_image_files import spoil

from asintrovae import (
    ParameterError,
    RunConfig,
    build_data,
    evaluate,
    load_run,
    sample,
    save_record,
    train,
)
from asintrovae.config import REGISTRY
from asintrovae.data import images
from asintrovae.data.image_files import read_row
from asintrovae.data.images import MemoryImages, StreamedImages
from asintrovae.data.sources import OPENERS, find_images
from asintrovae.running.checkpoint import load_checkpoint
from asintrovae.running.loop import Loop

each_layout = pytest.mark.parametrize("name", LAYOUTS)


@pytest.fixture
def stream(monkeypatch):
    """As if no data set fitted into memory."""
    monkeypatch.setattr(images, "MEMORY_LIMIT", 0)


def config(name, data_dir, **parameters):
    """A run of a few steps on the data set below data_dir."""
    small = {"resolution": 16 if name == "folder" else None, "feature_network": None}
    small |= {
        "batch_size": 4,
        "widths": (2, 2),
        "iterations": 3,
        "warmup": 1,
        "c": 0.5,
        "latent_dim": 3,
    }
    few = {
        "device": "cpu",
        "workers": 0,
        "evaluation_samples": 2,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return RunConfig(**{**small, **few, "dataset": name, "data_dir": str(data_dir), **parameters})


@each_layout
def test_layout_to_batches(name, tmp_path, monkeypatch):
    """Training images are darker than 100, test images lighter, validation images of CelebA 100."""
    make, shape = LAYOUTS[name]
    make(tmp_path, monkeypatch)
    data = build_data(config(name, tmp_path))
    assert isinstance(data, MemoryImages)
    assert data.shape == shape
    epoch = torch.cat([data.batch(0), data.batch(1)])
    assert epoch.shape == (8, *shape)
    assert 0 <= epoch.min() <= epoch.max() < 99 / 255
    assert len(set(epoch.mean((1, 2, 3)).mul(255).round().tolist())) == 8
    assert data.evaluation(5).mean((1, 2, 3)).mul(255).round().tolist() == [200] * len(
        data.evaluation(5)
    )
    assert len(data.evaluation(1)) == 1
    assert data.skipped_images == 0


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("cifar10", "celeba256")])
def test_streamed_batches_equal_those_in_memory(name, tmp_path, monkeypatch):
    LAYOUTS[name][0](tmp_path, monkeypatch)
    wanted = build_data(config(name, tmp_path, mirror=True))
    monkeypatch.setattr(images, "MEMORY_LIMIT", 0)
    state = torch.get_rng_state()
    data = build_data(config(name, tmp_path, mirror=True))
    assert isinstance(data, StreamedImages)
    assert data.shape == wanted.shape
    for index in (0, 0, 1, 2, 7, 3):  # twice, in order, and back
        assert torch.equal(data.batch(index), wanted.batch(index))
    for count in (1, 2, 1, 9):
        assert torch.equal(data.evaluation(count), wanted.evaluation(count))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_set_above_the_limit_may_take_a_quarter_of_the_free_memory_of_a_gpu(
    tmp_path, monkeypatch
):
    """Not on other devices, in several processes, or for a run that sees fewer than all images."""
    run = config("folder", tmp_path, iterations=3, batch_size=4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 10**9, 80 * 10**9))
    assert images.room_on_card(run, 12, torch.device("cuda")) == 10**9
    assert images.room_on_card(run, 12, torch.device("cpu")) == 0
    assert images.room_on_card(run, 13, torch.device("cuda")) == 0
    several = config("folder", tmp_path, devices=2)
    assert images.room_on_card(several, 12, torch.device("cuda")) == 0


def test_a_large_set_that_is_kept_gives_the_batches_of_a_streamed_one(
    tmp_path, monkeypatch, stream
):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    (tmp_path / "shut").mkdir()
    monkeypatch.setattr(images, "left_out", lambda folder: [str(tmp_path / "shut")])
    needed = 3 * 16**2 * 11
    monkeypatch.setattr(images, "room_on_card", lambda *given: needed - 1)
    with pytest.warns(UserWarning, match="shut"):
        streamed = build_data(config("folder", tmp_path, mirror=True))
    monkeypatch.setattr(images, "room_on_card", lambda *given: needed)
    with pytest.warns(UserWarning, match="shut"):
        kept = build_data(config("folder", tmp_path, mirror=True))
    assert isinstance(streamed, StreamedImages)
    assert isinstance(kept, MemoryImages)
    assert (kept.fingerprint, kept.shape) == (streamed.fingerprint, streamed.shape)
    assert kept.skipped_images == streamed.skipped_images == 1
    for index in (0, 1, 2, 7, 3):
        assert torch.equal(kept.batch(index), streamed.batch(index))
    assert torch.equal(kept.evaluation(9), streamed.evaluation(9))


def test_a_large_set_with_a_damaged_image_is_streamed_wherever_it_would_fit(
    tmp_path, monkeypatch, stream
):
    """So that a run goes on with the same batches on a machine with more memory or less."""
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    monkeypatch.setattr(images, "room_on_card", lambda *given: 1e9)
    whole = build_data(config("folder", tmp_path)).fingerprint
    find_images("folder", str(tmp_path))[0][4].write_bytes(b"")
    with pytest.warns(UserWarning, match=r"left out because they cannot be read: [^;]+$"):
        data = build_data(config("folder", tmp_path))
    assert isinstance(data, StreamedImages)
    assert (data.fingerprint != whole, data.skipped_images) == (True, 1)
    with pytest.raises(ValueError, match=r"^strict_images=True and 1 unreadable"):
        build_data(config("folder", tmp_path, strict_images=True))


def test_worker_processes_decode_the_same(tmp_path, monkeypatch, stream):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    alone, data = (
        build_data(config("folder", tmp_path, workers=workers, mirror=True)) for workers in (0, 2)
    )
    for index in (3, 4, 5, 6, 0):
        assert torch.equal(data.batch(index), alone.batch(index))


class PowerCutError(Exception):
    pass


def interrupted(run, at):
    """Train until iteration `at` begins; the checkpoint is then the last one saved before."""

    def iterate(loop, i):
        if i == at:
            raise PowerCutError
        return whole(loop, i)

    whole = Loop.iterate
    data, network, objective = build(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "iterate", iterate)
        with pytest.raises(PowerCutError):
            train(network, objective, data, run)
    return load_checkpoint(Path(run.run_dir)).meta["iteration"]


def pairs_of_a_set_and_a_model():
    """Every week all; else all models on a folder, and AS-IntroVAE on all data sets.

    A model sees of a data set nothing but its shape.
    """
    for name, model in itertools.product([*LAYOUTS, "mnist-subset", "mnist"], MODELS):
        each_time = name == "folder" or model == "as_intro"
        yield pytest.param(name, model, marks=() if each_time else pytest.mark.weekly)


@pytest.mark.parametrize(("name", "model_name"), list(pairs_of_a_set_and_a_model()))
def test_every_model_on_every_data_set(name, model_name, tmp_path, monkeypatch, request):
    """A few steps, interrupted and resumed, to a record, samples and metrics."""
    if name in LAYOUTS:
        LAYOUTS[name][0](tmp_path / "data", monkeypatch)
    root = request.getfixturevalue("mnist_root") if name == "mnist" else tmp_path / "data"
    run = config(
        name,
        root,
        model=model_name,
        run_dir=str(tmp_path / "run"),
        ema=0.5,
        batch_size=2,
        evaluation_samples=3,
    )
    assert interrupted(run, at=2) == 2
    data, network, objective = build(run)
    result = train(network, objective, data, run)
    assert [row["iteration"] for row in result.history] == [1, 2, 3]
    metrics = evaluate(network, data, run)
    save_record(run, result, metrics, data.skipped_images)
    loaded = load_run(tmp_path / "run")
    assert (loaded.record["status"], loaded.record["skipped_images"]) == ("finished", 0)
    fidelity = {"psnr", "ssim", "mse", "kl", "active_units"}
    assert fidelity & metrics.keys() == (set() if model_name == "wgan_gp" else fidelity)
    images = sample(loaded.model, 16, seed=0)
    assert images.shape == (16, *data.shape)
    assert torch.equal(images, sample(network, 16, seed=0))
    progress = sorted((tmp_path / "run" / "progress").iterdir())
    assert [path.name for path in progress] == ["0000000.png", "0000002.png", "0000003.png"]
    assert torch.equal(read_row(progress[-1]), (images.clamp(0, 1) * 255).round() / 255)


def test_a_streamed_run_resumes_exactly(tmp_path, monkeypatch, stream):
    LAYOUTS["folder"][0](tmp_path / "data", monkeypatch)
    runs = [
        config("folder", tmp_path / "data", mirror=True, iterations=6, run_dir=str(tmp_path / name))
        for name in "ab"
    ]
    data, network, objective = build(runs[0])
    whole = train(network, objective, data, runs[0])
    assert interrupted(runs[1], at=3) == 2
    again, second, _ = build(runs[1])
    rest = train(second, objective, again, runs[1].model_copy(update={"workers": 1}))
    assert rest.history == whole.history
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_unreadable_images_of_a_small_set_are_skipped_before_training_or_refused(
    tmp_path, monkeypatch
):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    (tmp_path / "bad").mkdir()
    bad = [name for name in spoil(tmp_path / "bad") if name != "missing.jpg"]
    with pytest.warns(UserWarning, match="cannot be read: ") as caught:
        data = build_data(config("folder", tmp_path))
    assert all(f"bad/{name} (" in str(caught[0].message) for name in bad)
    assert data.skipped_images == len(bad) == 6
    assert len(data.train) + len(data.test) == 11 + 1
    with pytest.raises(
        ValueError,
        match=r"strict_images=True and 6 unreadable: .*bad/crc\.png .*; repair or remove them",
    ):
        build_data(config("folder", tmp_path, strict_images=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_of_a_streamed_set_are_replaced(workers, tmp_path, monkeypatch, stream):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    train_paths, test_paths = find_images("folder", str(tmp_path))
    train_paths[8].write_bytes(b"")  # the last: replaced by the first
    test_paths[0].write_bytes(train_paths[0].read_bytes()[:70])
    data = build_data(config("folder", tmp_path, workers=workers, batch_size=3))
    with pytest.warns(UserWarning, match=train_paths[8].name) as caught:
        shades = torch.cat([data.batch(i) for i in range(3)]).mean((1, 2, 3)).mul(255).round()
    assert len(caught) == 1
    assert sorted(shades.tolist()) == [0, 0, *range(10, 80, 10)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        data.batch(3), data.batch(4), data.batch(5)
    assert data.skipped_images == 1
    with pytest.warns(UserWarning, match=test_paths[0].name):
        assert len(data.evaluation(2)) == 1
    assert data.skipped_images == 2
    strict = build_data(
        config("folder", tmp_path, workers=workers, batch_size=9, strict_images=True)
    )
    with pytest.raises(
        ValueError, match=f"strict_images=True and 1 unreadable: .*{train_paths[8].name}"
    ):
        strict.batch(0)


def test_a_set_without_its_images_is_refused_at_once(tmp_path, monkeypatch, stream):
    LAYOUTS["celeba128"][0](tmp_path, monkeypatch)
    shutil.rmtree(tmp_path / "celeba" / "img_align_celeba")
    (tmp_path / "celeba" / "img_align_celeba").mkdir()
    with pytest.raises(
        ValueError,
        match=r"8 images in a row .*000001\.jpg \(No such file or directory\); is the data set "
        r"whole",
    ):
        build_data(config("celeba128", tmp_path))


@pytest.mark.parametrize("name", [name for name in OPENERS if name != "mnist"])
def test_a_missing_set_names_the_places_and_the_ways_out(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ASINTROVAE_DATA", str(tmp_path / "here"))
    monkeypatch.chdir(tmp_path)
    place = REGISTRY[name].folder
    out = (
        r"set download=True to fetch it there \(papermill: -p download True\), or data_dir to the "
        r"folder that holds"
    )
    with pytest.raises(
        FileNotFoundError,
        match=f"'{name}' not found in .*/here/{place} or data/{place}; {out} {place}/",
    ):
        build_data(RunConfig(dataset=name))


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "folder"])
def test_a_damaged_set_is_refused(name, tmp_path, monkeypatch):
    """The checksums are torchvision's and are looked at; it has none for the lists of Pet, where a
    file is missing."""
    damaged = LAYOUTS[name][0](tmp_path, monkeypatch)
    damaged.unlink() if name == "pet128" else damaged.write_bytes(damaged.read_bytes() + b"\0")
    with pytest.raises(
        FileNotFoundError,
        match=f"incomplete or damaged in {tmp_path}.*; delete it and set download=True to fetch it "
        "again",
    ):
        build_data(config(name, tmp_path))


def test_download_fetches_into_the_first_place_what_is_nowhere(tmp_path, monkeypatch):
    fetched = []

    def download(self):
        if not self._check_integrity():
            fetched.append(self.root)
            LAYOUTS["cifar10"][0](Path(self.root), monkeypatch)

    monkeypatch.setattr(datasets.CIFAR10, "download", download)
    monkeypatch.setenv("ASINTROVAE_DATA", str(tmp_path / "first"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert (
            len(build_data(RunConfig(dataset="cifar10", download=True, batch_size=4)).train) == 10
        )
    assert [str(root) for root in fetched] == [str(tmp_path / "first")]


def test_a_missing_reader_is_named(tmp_path, monkeypatch):
    LAYOUTS["flowers128"][0](tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        ModuleNotFoundError,
        match="dataset='flowers128' needs scipy, which is not installed: pip install scipy",
    ):
        build_data(config("flowers128", tmp_path))


def test_a_folder_is_split_by_order_whatever_else_it_holds(tmp_path, monkeypatch):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    for other in ("notes.txt", ".hidden.png", ".cache/a.png", "a/._00.png"):
        save(tmp_path / "x.png", 0)
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / other)
    train_paths, test_paths = find_images("folder", str(tmp_path))
    assert [path.name[:2] for path in test_paths] == ["00", "10"]
    assert [path.name[:2] for path in train_paths] == [f"{i:02d}" for i in range(1, 10)]


def test_all_that_pillow_opens_is_read_and_other_images_are_named(tmp_path):
    for i in range(19):
        save(tmp_path / f"{i:02d}.png", 5 * i)
    for name in ("a.jfif", "b.jpe", "c.JP2", "d.tga", "e.ico", "f.mpo"):
        Image.new("RGB", (16, 16)).save(tmp_path / name, {"b.jpe": "JPEG"}.get(name))
    (tmp_path / "folder.png").mkdir()
    others = ["g.heic", "h.NEF", "i.svg"]
    for name in [*others, "notes.txt", "list.pdf", "tensors.h5", "film.mpg"]:
        (tmp_path / name).write_bytes(b"")
    with pytest.warns(
        UserWarning, match=r"cannot be read: .*g\.heic \(Pillow opens no \.heic files\)"
    ) as caught:
        data = build_data(config("folder", tmp_path))
    assert all(name in str(caught[0].message) for name in others)
    assert len(data.train) + len(data.test) == 25
    assert data.skipped_images == len(others)
    with pytest.raises(ValueError, match=r"strict_images=True and 3 unreadable: .*g\.heic"):
        build_data(config("folder", tmp_path, strict_images=True))


def test_other_images_of_a_streamed_folder_are_counted(tmp_path, monkeypatch, stream):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    (tmp_path / "a.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"a\.heic"):
        data = build_data(config("folder", tmp_path))
    assert (len(data.batches.paths), len(data.test_paths), data.skipped_images) == (9, 2, 1)


def test_names_of_every_kind_are_read(tmp_path):
    names = [
        "a b.png",
        "-rf.png",
        "#1%20.PNG",
        "q?*[0].png",
        "é.png",
        "line\nbreak.png",
        os.fsdecode(b"\xff.png"),
    ]
    for name in names:
        save(tmp_path / "x y#%" / name, 100)
    data = build_data(config("folder", tmp_path, batch_size=1))
    assert len(data.train) + len(data.test) == len(names)
    assert data.skipped_images == 0
    (tmp_path / "x y#%" / names[-1]).write_bytes(b"")
    (tmp_path / "x y#%" / "line\nbreak.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"udcff\.png' \(it is no image") as caught:
        build_data(config("folder", tmp_path, batch_size=1))
    assert str(caught[0].message).isprintable()


def test_links_are_followed_and_no_folder_is_read_twice(tmp_path):
    for i in range(4):
        save(tmp_path / "elsewhere" / f"{i}.png", 10)
        save(tmp_path / "set" / f"{i}.png", 10)
    root = tmp_path / "set"
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "back").symlink_to(root)
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "link.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    os.mkfifo(root / "pipe.png")  # nobody writes: who opens it waits for ever
    train_paths, test_paths = find_images("folder", str(root))
    names = {path.relative_to(root).as_posix() for path in train_paths + test_paths}
    assert names == {
        *(f"{i}.png" for i in range(4)),
        *(f"again/{i}.png" for i in range(4)),
        "link.png",
    }
    (root / "broken.png").symlink_to(root / "nothing.png")
    with pytest.warns(UserWarning, match=r"broken\.png \(No such file"):
        assert build_data(config("folder", root)).skipped_images == 1


@pytest.mark.parametrize(
    "folder", [".hidden", "__MACOSX", ".ipynb_checkpoints", "@eaDir", "a/@eaDir"]
)
def test_what_other_programs_leave_in_a_folder_is_not_read(folder, tmp_path, monkeypatch):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    before = find_images("folder", str(tmp_path))
    save(tmp_path / folder / "b" / "00.png", 10)
    save(tmp_path / "a" / "._00.png", 10)
    assert find_images("folder", str(tmp_path)) == before


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    scandir = os.scandir

    def refused(path):
        if Path(path).name == "c":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("asintrovae.data.sources.os.scandir", refused)
    with pytest.warns(UserWarning, match=r"b/c \(Permission denied\)"):
        data = build_data(config("folder", tmp_path, batch_size=1))
    assert (len(data.train), len(data.test), data.skipped_images) == (3, 1, 1)
    with pytest.raises(
        FileNotFoundError,
        match=r"holds 0 images, .*c \(Permission denied\) cannot be read; name a folder",
    ):
        find_images("folder", str(tmp_path / "b"))


@pytest.mark.parametrize(
    ("folders", "tests"),
    [
        (("train/a", "train/b", "test/a"), "test/"),
        (("Train", "Val"), "Val/"),
        (("train", "test", "val"), "test/"),
        (("train", "valid", "more"), "valid/"),
    ],
)
def test_folders_for_training_and_testing_are_the_splits(folders, tests, tmp_path):
    for folder in folders:
        for i in range(3):
            save(tmp_path / folder / f"{i}.png", 10)
    splits = find_images("folder", str(tmp_path))
    for_training, for_testing = (
        [path.relative_to(tmp_path).as_posix() for path in split] for split in splits
    )
    assert all(name.startswith(tests) for name in for_testing)
    assert not any(name.startswith(tests) for name in for_training)
    assert len(for_training) + len(for_testing) == 3 * len(folders)


@pytest.mark.parametrize("folders", [("train", "cats"), ("test", "val"), ("train", "test")])
def test_without_images_in_both_every_tenth_is_for_testing(folders, tmp_path):
    for i in range(12):
        save(tmp_path / folders[0] / f"{i:02d}.png", 10)
    (tmp_path / folders[1]).mkdir()
    assert [path.name for path in find_images("folder", str(tmp_path))[1]] == ["00.png", "10.png"]


@pytest.mark.parametrize("limit", [0, 2**30])
def test_too_few_images_for_a_feature_network_are_refused_before_training(
    limit, tmp_path, monkeypatch
):
    monkeypatch.setattr(images, "MEMORY_LIMIT", limit)
    for i in range(31):
        save(tmp_path / f"{i:02d}.png", 5 * i)
    scored = config("folder", tmp_path, feature_network="inception", evaluation_samples=100)
    assert len(build_data(scored).evaluation(100)) == 4
    (tmp_path / "30.png").unlink()
    with pytest.raises(
        ParameterError,
        match=r"^feature_network='inception' needs at least 4 test images, data_dir='.*' has 3; "
        r"add images, or set feature_n",
    ):
        build_data(scored)


@pytest.mark.parametrize("name", ["cifar10", "pet128", "celeba128"])
def test_a_folder_within_the_data_set_is_named_with_the_right_one(name, tmp_path, monkeypatch):
    LAYOUTS[name][0](tmp_path, monkeypatch)
    place = tmp_path / REGISTRY[name].folder
    message = (
        rf"^dataset='{name}': '{place}' is within the data set; set data_dir='{tmp_path}', the "
        r"folder that holds "
    )
    for download in (False, True):
        with pytest.raises(FileNotFoundError, match=message):
            build_data(config(name, place, download=download))


@pytest.mark.parametrize(
    ("data_dir", "message"),
    [("none", "'none' is not a folder"), ("empty", "'empty' holds 0 images; .*jpg")],
)
def test_a_folder_without_images_is_refused(data_dir, message, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        build_data(RunConfig(dataset="folder", data_dir=data_dir))


def test_a_folder_needs_data_dir_and_fitting_widths(tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match="dataset='folder' needs data_dir"):
        RunConfig(dataset="folder")
    LAYOUTS["folder"][0](tmp_path, monkeypatch)
    with pytest.raises(
        ValueError, match="halves the image 2 times, which resolution=18 does not allow"
    ):
        config("folder", tmp_path, resolution=18)


@pytest.mark.parametrize("limit", [images.MEMORY_LIMIT, 0])
def test_portraits_are_cropped_or_squeezed_in_memory_and_streamed(limit, tmp_path, monkeypatch):
    """178 x 218 with a white frame; its upper and lower parts lie outside the centred square."""
    monkeypatch.setattr(images, "MEMORY_LIMIT", limit)
    portrait = Image.new("RGB", (178, 218), "white")
    portrait.paste("black", (10, 10, 168, 208))
    for i in range(20):
        portrait.save(tmp_path / f"{i:02d}.png")
    for fit in ("crop", "squeeze"):
        given = {"data_dir": str(tmp_path), "resolution": 32, "batch_size": 4, "workers": 0}
        data = build_data(RunConfig(dataset="folder", fit=fit, **given))
        assert isinstance(data, StreamedImages) == (limit == 0)
        for x in (data.batch(0), data.evaluation(2)):
            assert x[:, :, 16, 0].min() > 0.9
            assert ((x[:, :, 0, 8:24] > 0.5) == (fit == "squeeze")).all()


@pytest.mark.parametrize(
    ("name", "counts"), [("cifar10", (50_000, 10_000)), ("flowers128", (2040, 6149))]
)
def test_real_sets_where_the_machine_has_them(name, counts):
    root = os.environ.get("ASINTROVAE_DATA")
    if root is None or not (Path(root) / REGISTRY[name].folder).exists():
        pytest.skip(
            f"ASINTROVAE_DATA names no folder with {REGISTRY[name].folder}: the real data set is "
            "not here"
        )
    train_split, test_split = find_images(name)
    assert (len(train_split), len(test_split)) == counts
    if name == "flowers128":  # a part of it, streamed; all of it takes ten seconds
        epochs = images.Epochs(len(train_split), 16, seed=0)
        data = StreamedImages(train_split, test_split, 128, epochs, torch.device("cpu"), workers=0)
        assert data.batch(0).shape == (16, 3, 128, 128)
        assert 0.2 < data.batch(0).mean() < 0.6
        assert data.skipped_images == 0
    else:
        means = train_split.double().mean((0, 2, 3)) / 255
        assert torch.allclose(
            means, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), atol=1e-4
        )
