import gzip
import hashlib
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from asintrovae import ParameterError, RunConfig, build_data
from asintrovae.data.images import Epochs, MemoryImages
from asintrovae.data.sources import find_images, read_idx

SUBSET = ROOT / "data" / "mnist-subset"


def test_embedded_subset_is_balanced_hashed_and_small():
    assert [split.shape for split in find_images("mnist-subset")] == [
        (6000, 1, 28, 28),
        (1000, 1, 28, 28),
    ]
    for split, per_class in (("train", 600), ("t10k", 100)):
        labels = read_idx(SUBSET / f"{split}-labels-idx1-ubyte.gz")
        assert labels.long().bincount().tolist() == [per_class] * 10
    listed = dict(line.split()[::-1] for line in (SUBSET / "SHA256SUMS").read_text().splitlines())
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SUBSET.glob("*.gz")
    }
    assert listed == files
    assert sum(path.stat().st_size for path in SUBSET.glob("*.gz")) < 1_600_000


def test_embedded_subset_is_what_its_script_draws_from_the_originals(mnist_root, tmp_path):
    (tmp_path / "make.py").write_text((SUBSET / "make.py").read_text())
    subprocess.run([sys.executable, tmp_path / "make.py", mnist_root / "MNIST" / "raw"], check=True)
    for path in SUBSET.glob(
        "*.gz"
    ):  # the pixels, not the compression, which differs between zlib builds
        assert torch.equal(read_idx(path), read_idx(tmp_path / path.name))


def test_full_mnist_is_read_where_it_is(mnist_root, monkeypatch):
    shapes = [(60_000, 1, 28, 28), (10_000, 1, 28, 28)]
    assert [split.shape for split in find_images("mnist")] == shapes
    monkeypatch.delenv("ASINTROVAE_DATA")
    assert [split.shape for split in find_images("mnist", str(mnist_root))] == shapes


def test_missing_files_name_the_places_and_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("ASINTROVAE_DATA", str(tmp_path / "here"))
    with pytest.raises(
        FileNotFoundError,
        match=r"here/MNIST/raw or data/MNIST/raw; set download=True .*'mnist-subset'",
    ):
        find_images("mnist")


@pytest.mark.parametrize("place", ["data_dir", "ASINTROVAE_DATA"])
def test_data_sets_are_found_in_the_home_folder(monkeypatch, tmp_path, place):
    monkeypatch.setenv("HOME", str(tmp_path))

    def find(root):
        if place == "data_dir":
            return find_images("mnist", root)
        monkeypatch.setenv("ASINTROVAE_DATA", root)
        return find_images("mnist")

    with pytest.raises(FileNotFoundError, match=rf"not found in {tmp_path}/data/MNIST/raw"):
        find("~/data")
    message = (
        f"^{place}='~nobody-of-that-name/x': no home folder is known for '~nobody-of-that-name'"
    )
    with pytest.raises(ParameterError, match=message):
        find("~nobody-of-that-name/x")


def test_a_folder_of_images_is_found_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    assert find_images("folder", "~") == ([tmp_path / "b.png"], [tmp_path / "a.png"])


@pytest.mark.parametrize(
    "damage",
    [lambda c: gzip.compress(c[:-1]), lambda c: gzip.compress(c)[:-20], lambda c: b"", lambda c: c],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    content = gzip.decompress((SUBSET / "t10k-labels-idx1-ubyte.gz").read_bytes())
    path = tmp_path / "labels.gz"
    path.write_bytes(damage(content))
    with pytest.raises(ValueError, match=r"labels\.gz is not a whole IDX file"):
        read_idx(path)


def memory(images, batch_size, seed=0, mirror=False):
    epochs = Epochs(len(images), batch_size, seed, mirror)
    return MemoryImages(images, images, epochs, torch.device("cpu"))


def test_epochs_are_permutations_and_random_access():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    data = memory(images, 3)
    epochs = [
        torch.cat([data.batch(3 * e + i) for i in range(3)]).flatten().mul(255).round().tolist()
        for e in range(2)
    ]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert torch.equal(memory(images, 3).batch(4), data.batch(4))
    assert data.batch(0).min() >= 0
    assert data.batch(0).max() <= 1


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size=5 exceeds the 4 training images"):
        Epochs(4, 5, seed=0)


def test_mirror_flips_half_of_the_training_images_by_seed_and_index():
    images = torch.arange(200, dtype=torch.uint8).reshape(200, 1, 1, 1).repeat(1, 1, 1, 3)
    images[..., 2] = 255  # the light side
    data, plain = memory(images, 100, mirror=True), memory(images, 100)
    flips = [data.batch(i)[:, 0, 0, 0] == 1 for i in range(4)]
    assert 150 < sum(int(flip.sum()) for flip in flips) < 250
    assert not torch.equal(flips[0], flips[2])  # the next epoch draws anew
    again = memory(images, 100, mirror=True)
    for i in (3, 0):
        assert torch.equal(again.batch(i), data.batch(i))
        unflipped = torch.where(
            flips[i][:, None, None, None], data.batch(i).flip(-1), data.batch(i)
        )
        assert torch.equal(unflipped, plain.batch(i))
    assert torch.equal(data.evaluation(200), plain.evaluation(200))


def test_torchvision_imports_beside_this_torch():
    from asintrovae.data._torchvision import torchvision

    assert torchvision.utils.make_grid(torch.zeros(4, 1, 2, 2)).shape[0] == 3
    assert torchvision.datasets.MNIST.mirrors


def test_test_images_come_in_one_order_that_is_not_that_of_the_file():
    data = [
        build_data(RunConfig(dataset="mnist-subset", seed=seed, device="cpu")) for seed in (0, 1)
    ]
    images, split = data[0].evaluation(1000), find_images("mnist-subset")[1] / 255
    assert torch.equal(data[1].evaluation(1000), images)
    assert torch.equal(data[0].evaluation(16), images[:16])
    assert not torch.equal(images[:16], split[:16])
    assert torch.equal(
        images.flatten(1).sum(1).sort().values, split.flatten(1).sum(1).sort().values
    )
