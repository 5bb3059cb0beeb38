import gzip
import hashlib
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from asintrovae.data import ImageData, load_images
from asintrovae.data.images import read_idx

SUBSET = ROOT / "data" / "mnist-subset"


def test_embedded_subset_is_balanced_hashed_and_small():
    assert load_images("mnist-subset", train=True).shape == (6000, 1, 28, 28)
    assert load_images("mnist-subset", train=False).shape == (1000, 1, 28, 28)
    for split, per_class in (("train", 600), ("t10k", 100)):
        labels = read_idx(SUBSET / f"{split}-labels-idx1-ubyte.gz")
        assert labels.long().bincount().tolist() == [per_class] * 10
    listed = dict(line.split()[::-1] for line in (SUBSET / "SHA256SUMS").read_text().splitlines())
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SUBSET.glob("*.gz")}
    assert listed == files
    assert sum(path.stat().st_size for path in SUBSET.glob("*.gz")) < 1_600_000


def test_embedded_subset_is_what_its_script_draws_from_the_originals(mnist_root, tmp_path):
    (tmp_path / "make.py").write_text((SUBSET / "make.py").read_text())
    subprocess.run([sys.executable, tmp_path / "make.py", mnist_root / "MNIST" / "raw"], check=True)
    for path in SUBSET.glob("*.gz"):  # the pixels, not the compression, which differs between zlib builds
        assert torch.equal(read_idx(path), read_idx(tmp_path / path.name))


def test_full_mnist_is_read_where_it_is(mnist_root, monkeypatch):
    assert load_images("mnist", train=True).shape == (60_000, 1, 28, 28)
    monkeypatch.delenv("ASINTROVAE_DATA")
    assert load_images("mnist", train=False, data_dir=str(mnist_root)).shape == (10_000, 1, 28, 28)


def test_missing_files_name_the_places_and_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("ASINTROVAE_DATA", str(tmp_path / "here"))
    with pytest.raises(FileNotFoundError, match=r"here/MNIST/raw or data/MNIST/raw; set download=True .*'mnist-subset'"):
        load_images("mnist", train=True)


def test_a_truncated_file_is_named(tmp_path):
    content = gzip.decompress((SUBSET / "t10k-labels-idx1-ubyte.gz").read_bytes())
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(ValueError, match=r"labels\.gz is not a whole IDX file"):
        read_idx(path)


def test_epochs_are_permutations_and_random_access():
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    data = ImageData(images, images, 3, seed=0, device=torch.device("cpu"))
    epochs = [torch.cat([data.batch(3 * e + i) for i in range(3)]).flatten().mul(255).round().tolist() for e in range(2)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = ImageData(images, images, 3, seed=0, device=torch.device("cpu"))
    assert torch.equal(again.batch(4), data.batch(4))
    assert data.batch(0).min() >= 0
    assert data.batch(0).max() <= 1


def test_a_batch_larger_than_the_data_is_refused():
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="batch_size=5 exceeds the 4 training images"):
        ImageData(images, images, 5, 0, torch.device("cpu"))


def test_torchvision_imports_beside_this_torch():
    from asintrovae._torchvision import torchvision

    assert torchvision.utils.make_grid(torch.zeros(4, 1, 2, 2)).shape[0] == 3
    assert torchvision.datasets.MNIST.mirrors
