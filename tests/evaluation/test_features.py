"""Feature networks, and the scores of generated images that rest on them."""

import hashlib
import io
import itertools
import json
import math
import os
import shutil
import urllib.error
import warnings
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, build, tiny_config
from image_layouts import save as save_image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from asintrovae import (
    ParameterError,
    build_features,
    density_coverage,
    evaluate,
    frechet_distance,
    kernel_distance,
    precision_recall,
    train,
)
from asintrovae.data.sources import MNIST_FILES, find_images, read_idx
from asintrovae.evaluation import check_fid as fid
from asintrovae.evaluation.evaluate import evaluate_features, sample
from asintrovae.evaluation.feature_cache import PART, real_features
from asintrovae.evaluation.features import FeatureNetwork, fetch_inception, mnist_classifier
from asintrovae.evaluation.measures import moments

CLASSIFIER = ROOT / "data" / "mnist-classifier"
INCEPTION = "torchmetrics.image.fid.NoTrainInceptionV3"
DIGITS = {
    "dataset": "mnist-subset",
    "feature_network": "mnist-classifier",
    "widths": (2, 2),
    "batch_size": 4,
}

needs_fid = pytest.mark.skipif(
    find_spec("torch_fidelity") is None, reason="the extra fid is not installed"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty folder for features, instead of this user's."""
    monkeypatch.setenv("ASINTROVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits():
    """The 1,000 embedded test digits, (1000, 1, 28, 28) in [0, 1]."""
    return find_images("mnist-subset")[1].float() / 255


@torch.no_grad()
def accuracy(images, labels):
    network = mnist_classifier()
    logits = torch.cat([network.head(network(part)) for part in images.split(500)])
    return (logits.argmax(1) == labels).float().mean().item()


def test_classifier_is_small_hashed_and_right():
    path = CLASSIFIER / "mnist-classifier.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (CLASSIFIER / "SHA256SUMS").read_text().split() == [digest, path.name]
    assert digest in (CLASSIFIER / "README.md").read_text()
    assert path.stat().st_size < 300_000
    labels = read_idx(
        ROOT / "data" / "mnist-subset" / MNIST_FILES[1].replace("images-idx3", "labels-idx1")
    )
    assert accuracy(find_images("mnist-subset")[1], labels) > 0.985


def test_classifier_on_all_test_digits_is_as_its_readme_says(mnist_root):
    labels = read_idx(
        mnist_root / "MNIST" / "raw" / MNIST_FILES[1].replace("images-idx3", "labels-idx1")
    )
    assert abs(accuracy(find_images("mnist")[1], labels) - 0.9925) < 2e-4


def test_features_are_of_bytes_in_any_chunks_and_not_finite_where_the_image_is_not(
    digits, tmp_path
):
    features = build_features(tiny_config(tmp_path, **DIGITS))
    found = features(digits[:150])
    assert found.shape == (150, 64)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found[140:], features(digits[140:150]))
    with torch.no_grad():
        torch.testing.assert_close(found[:9], features.network((digits[:9] * 255).round().byte()))
    cut = features(digits[:9] + 0.9 / 255)  # torchmetrics cuts to bytes; white stays white
    torch.testing.assert_close(cut, found[:9])
    broken = digits[:3].clone()
    broken[1, 0, 5, 5] = torch.nan
    assert features(broken).isfinite().all(1).tolist() == [True, False, True]
    with pytest.raises(
        ValueError,
        match=r"mnist-classifier takes images of shape \(B, 1, H, W\), got shape \(2, 3, 28, 28\)",
    ):
        features(torch.zeros(2, 3, 28, 28))


class Channels(nn.Module):
    """A stand-in of known answer: bytes (B, 3, H, W) to the channels' means and two corners, (B,
    5)."""

    def __init__(self, *arguments, antialias=True):
        super().__init__()
        assert antialias
        self.arguments, self.num_features, self.seen = arguments[:3], 5, 0
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == 3
        self.seen += len(pixels)
        pixels = pixels.double()
        return torch.cat([pixels.mean((2, 3)), pixels[:, 0, 0, :2]], 1)


def colours(count, generator, dark=1.0):
    return (dark * torch.rand(count, 3, 8, 8, generator=generator)).mul(255).byte() / 255


def test_frechet_distance_is_that_of_torchmetrics(generator):
    from asintrovae.data._torchvision import torchvision  # noqa: F401

    from torchmetrics.image.fid import FrechetInceptionDistance  # isort: skip

    features = FeatureNetwork("inception", Channels(), 3, torch.device("cpu"))
    sets = colours(300, generator), colours(300, generator, dark=0.8)
    fid = FrechetInceptionDistance(Channels())
    for images, real in zip(sets, (True, False), strict=True):
        fid.update((images * 255).round().byte(), real=real)
    ours = evaluate_features(*map(features, sets), "inception")
    assert ours["fid"] > 100
    assert (
        abs(ours["fid"] - fid.compute().item()) < 1e-5 * ours["fid"]
    )  # our features are rounded to float32
    assert ours["feature_samples"] == 300


def test_inception_is_torchmetrics_with_grey_as_three_channels(monkeypatch, tmp_path, generator):
    from asintrovae.data._torchvision import torchvision  # noqa: F401

    monkeypatch.setattr(INCEPTION, Channels)
    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    features = build_features(
        tiny_config(
            tmp_path, **DIGITS | {"feature_network": "inception", "fid_weights": str(weights)}
        )
    )
    assert features.name == "inception"
    assert features.network.arguments == ("inception-v3-compat", ["2048"], str(weights))
    means = features(torch.rand(2, 1, 8, 8, generator=generator))[:, :3]
    assert torch.equal(means[:, 0], means[:, 2])
    assert not torch.equal(means[0], means[1])


def channels(weight=1.0, precision="32-true"):
    network = FeatureNetwork("inception", Channels(), 3, torch.device("cpu"), precision)
    network.network.weight.data.fill_(weight)
    return network


def kept(network, images, split="test"):
    """Features of real images and how many images the network looked at for them; a warning is an
    error."""
    before = network.network.seen
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = real_features(network, images, "cifar10", split)
    assert torch.equal(features, network.network(images.expand(-1, 3, -1, -1)).float())
    return network.network.seen - before - len(images)


def test_features_of_real_images_are_computed_once(cache, generator):
    images = torch.randint(256, (2 * PART + 7, 1, 4, 4), dtype=torch.uint8, generator=generator)
    assert kept(channels(), images[: PART + 3]) == PART + 3
    assert kept(channels(), images[: PART + 3]) == 0
    assert kept(channels(), images) == PART + 7  # the first part is known
    assert torch.equal(
        real_features(channels(), images / 255, "cifar10", "test"), channels()(images)
    )
    changed = images.clone()
    changed[PART, 0, 0, 0] += 1
    assert kept(channels(), changed) == PART
    for other in (channels(weight=2.0), channels(precision="bf16-mixed")):
        assert kept(other, images) == len(images)
        assert kept(other, images) == 0
    assert kept(channels(), images, "train") == len(images)
    assert kept(channels(), images) == 0
    with safe_open(next(cache.glob("cifar10-train-0-*")), framework="pt") as file:
        header = file.metadata()
    assert header["weights"] == channels().weights
    known = {
        "dataset": "cifar10",
        "split": "train",
        "count": str(PART),
        "resolution": "4x4",
        "precision": "32-true",
    }
    assert known.items() <= header.items()
    assert header["resize"].startswith("bilinear")


def test_an_interrupted_computation_goes_on_where_it_was(generator):
    images = torch.randint(256, (3 * PART, 1, 4, 4), dtype=torch.uint8, generator=generator)
    network = channels()
    forward = network.network.forward

    def interrupted(pixels):
        if network.network.seen >= 2 * PART:
            raise KeyboardInterrupt
        return forward(pixels)

    network.network.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        real_features(network, images, "cifar10", "test")
    assert kept(channels(), images) == PART


def test_damaged_and_foreign_files_are_named_and_computed_again(cache, generator):
    images = torch.randint(256, (2, 10, 3, 4, 4), dtype=torch.uint8, generator=generator)
    for split, part in zip(("test", "train"), images, strict=True):
        assert kept(channels(), part, split) == 10
    test, train = (next(cache.glob(f"cifar10-{split}-*")) for split in ("test", "train"))
    whole = test.read_bytes()
    spoil = {
        r"test-0-.* is of split='train' instead of 'test', images='\w+' instead .* again": lambda: (
            shutil.copy(train, test)
        ),
        r"test-0-.* is damaged \(its features do not fit": lambda: test.write_bytes(
            whole[:-5] + b"12345"
        ),
        r"test-0-.* is damaged \(": lambda: test.write_bytes(whole[:-5]),
        r"test-0-.* is damaged .*": lambda: test.write_bytes(b""),
    }
    for words, change in spoil.items():
        change()
        with pytest.warns(UserWarning, match=words):
            features = real_features(channels(), images[0], "cifar10", "test")
        assert torch.equal(features, channels()(images[0]))
        assert kept(channels(), images[0]) == 0
    assert len(list(cache.iterdir())) == 2


def test_without_a_home_features_are_kept_in_the_temporary_folder(monkeypatch, tmp_path, generator):
    """As in a container that runs as a user without an entry in the password file."""
    for name in ("ASINTROVAE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "os.path.expanduser", lambda path: path
    )  # what it does where there is no home
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "of_all"))
    images = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8, generator=generator)
    assert kept(channels(), images) == 10
    assert kept(channels(), images) == 0
    assert len(list((tmp_path / "of_all" / "asintrovae").iterdir())) == 1


def test_features_that_cannot_be_kept_are_computed_all_the_same(monkeypatch, generator):
    images = torch.randint(256, (10, 3, 4, 4), dtype=torch.uint8, generator=generator)
    monkeypatch.setenv("ASINTROVAE_CACHE", str(ROOT / "README.md" / "cache"))
    with pytest.warns(
        UserWarning,
        match=r"cifar10 are not kept in .*README.md/cache \(.*\); set ASINTROVAE_CACHE to a folder",
    ):
        features = real_features(channels(), images, "cifar10", "test")
    assert torch.equal(features, channels()(images))


def test_evaluate_looks_at_real_images_once(cache, monkeypatch, tmp_path):
    from asintrovae.data._torchvision import torchvision  # noqa: F401

    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Channels)
    torch.save({}, tmp_path / "weights.pth")
    here = {
        "feature_network": "inception",
        "fid_weights": str(tmp_path / "weights.pth"),
        "evaluation_samples": 30,
    }
    run = tiny_config(tmp_path, **DIGITS | here)
    data, network, _ = build(run)
    first, second = build_features(run), build_features(run)
    scores = [evaluate(network, data, run, features) for features in (first, second)]
    assert scores[0] == scores[1]
    assert scores[0]["fid"] > 0
    assert (first.network.seen, second.network.seen) == (60, 30)
    assert [path.name.rsplit("-", 1)[0] for path in cache.iterdir()] == ["mnist-subset-test-0"]


def test_bfloat16_is_autocast_and_another_score():
    images = torch.randint(
        256, (8, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, pixels):
            return self.layer(pixels.float() / 255).flatten(1)

    network = Convolution()
    exact, rounded = (
        FeatureNetwork("inception", network, 3, torch.device("cpu"), p)(images)
        for p in ("32-true", "bf16-mixed")
    )
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert torch.equal(rounded, rounded.bfloat16().float())
    torch.testing.assert_close(exact, rounded, atol=0.02, rtol=0.02)


def test_weights_are_known_by_a_hash_of_what_features_depend_on():
    network = channels()
    same, other = channels(), channels(weight=1.0001)
    same.network.fc = nn.Linear(5, 3)
    assert network.weights == same.weights
    assert network.weights != other.weights


@pytest.fixture(scope="module")
def fid_weights():
    """The real weights, where this machine has them."""
    download = (
        Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    )
    path = Path(os.environ.get("ASINTROVAE_FID_WEIGHTS") or download)
    if find_spec("torch_fidelity") is None or not path.is_file():
        pytest.skip(
            "no weights of FID's InceptionV3: ASINTROVAE_FID_WEIGHTS names none and "
            "torch-fidelity has downloaded none"
        )
    return str(path)


@pytest.mark.parametrize("dataset", ["mnist-subset", "cifar10"])
def test_features_of_fixed_images_are_those_recorded(dataset, fid_weights, tmp_path, request):
    if dataset == "cifar10":
        request.getfixturevalue("mnist_root")
    run = tiny_config(
        tmp_path, dataset=dataset, feature_network="inception", fid_weights=fid_weights
    )
    features, recorded = (
        build_features(run),
        load_file(ROOT / "data" / "fid" / "features.safetensors")[dataset],
    )
    assert recorded.shape == (4, 2048)
    assert 0.2 < recorded.mean() < 0.7
    torch.testing.assert_close(
        features(find_images(dataset)[1][:4]), recorded, atol=2e-3, rtol=2e-3
    )
    assert (
        features.weights
        == json.loads((ROOT / "data" / "fid" / "record.json").read_text())["weights"]
    )


def test_recorded_fid_of_real_images_is_that_of_others():
    """CIFAR-10: 24.99 for the first 2,000 of each split, 5.22 for 10,000, 3.157 for all: same
    weights, another program."""
    record = json.loads((ROOT / "data" / "fid" / "record.json").read_text())
    floor = record["floor of cifar10"]
    assert abs(floor["2000"][0] - 24.99) < 0.5
    assert abs(floor["10000"][0] - 5.22) < 0.1
    assert abs(record["all of cifar10, 50,000 against 10,000"]["fid"] - 3.157) < 0.1
    for name in ("cifar10", "mnist", "flowers64"):
        blocks = list(record[f"floor of {name}"].values())
        assert all(min(few) > max(more) > 0 for few, more in itertools.pairwise(blocks))
    untrained, vae, soft_intro = (
        min(record["models on mnist"][name]) for name in ("untrained", "vae", "soft_intro")
    )
    assert untrained > vae > soft_intro > max(record["floor of mnist"]["500"])


def test_fid_program_scores_real_against_real(monkeypatch, capsys, cache, tmp_path):
    from asintrovae.data._torchvision import torchvision  # noqa: F401

    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Channels)
    torch.save({}, tmp_path / "weights.pth")
    fid.main(
        [
            "mnist-subset",
            "--count",
            "1500",
            "--device",
            "cpu",
            "--fid-weights",
            str(tmp_path / "weights.pth"),
        ]
    )
    printed = capsys.readouterr().out
    train_set, test_set = (channels()(split) for split in find_images("mnist-subset"))
    expected = frechet_distance(*moments(train_set[:1500]), *moments(test_set))
    assert printed.startswith(
        f"mnist-subset, first 1,500 training against 1,000 test images: FID {expected:.2f} "
        "(32-true, cpu, "
    )
    assert len(list(cache.iterdir())) == 5
    for i in range(8):
        save_image(tmp_path / "few" / f"{i}.png", 10)
    few, weights = (
        ["--data-dir", str(tmp_path / "few")],
        ["--fid-weights", str(tmp_path / "weights.pth")],
    )
    for arguments, words in (
        (
            ["mnist-subset", "--fid-weights", "no.pth"],
            "fid_weights='no.pth' is no file; set fid_weights to a local",
        ),
        (["folder"], "dataset='folder' needs data_dir"),
        (
            ["folder", *few, *weights],
            f"data_dir='{tmp_path}/few': test has 1 images, FID needs at least 2; add images",
        ),
        (
            ["mnist-subset", "--fid-precision", "16"],
            "fid_precision='16': must be '32-true', 'tf32' or 'bf16-mixed'",
        ),
        (["mnist-subset", "--count", "1"], "--count 1: a covariance needs at least 2 images"),
    ):
        with pytest.raises(SystemExit) as caught:
            fid.main(arguments)
        assert caught.value.code
        assert words in capsys.readouterr().err


def refuse(*_, **__):
    raise urllib.error.URLError("no route")


def not_there(*_, **__):
    raise ModuleNotFoundError("torch-fidelity")


@pytest.mark.parametrize(
    ("fid_weights", "build_network", "error", "words"),
    [
        (
            "nowhere.pth",
            refuse,
            FileNotFoundError,
            r"fid_weights='nowhere\.pth' is no file; set fid_weights .*=None",
        ),
        (
            None,
            refuse,
            FileNotFoundError,
            r"'inception' found no weights: .*no route.*to the network, set fid_weights .*=None",
        ),
        (
            None,
            not_there,
            ModuleNotFoundError,
            r"needs torch-fidelity, .*pip install 'asintrovae\[fid\]', or .*=None",
        ),
        (
            "README.md",
            refuse,
            ValueError,
            r"fid_weights='README\.md' holds no weights of FID's InceptionV3",
        ),
    ],
)
def test_inception_that_cannot_be_had_says_why_and_the_ways_out(
    monkeypatch, fid_weights, build_network, error, words, tmp_path
):
    from asintrovae.data._torchvision import torchvision  # noqa: F401

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        "asintrovae.evaluation.features.fetch_inception" if fid_weights is None else INCEPTION,
        build_network,
    )
    run = tiny_config(
        tmp_path, **DIGITS | {"feature_network": "inception", "fid_weights": fid_weights}
    )
    with pytest.raises(error, match=words) as caught:
        build_features(run)
    assert "\n" not in str(caught.value)


def test_without_a_home_weights_are_downloaded_into_the_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: torch.hub._hub_dir or "~/.cache/torch/hub")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: None)
    pytest.importorskip("torch_fidelity", reason="the extra fid is not installed")
    fetch_inception()
    assert torch.hub.get_dir() == str(tmp_path / "torch" / "hub")


@needs_fid
def test_downloaded_weights_are_checked_before_they_are_used(monkeypatch, tmp_path):
    """A server that sends other bytes than the file's name promises: nothing of it is kept."""

    def send(request, *_, **__):
        body = io.BytesIO(b"not the weights")
        body.info = Message
        return body

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", send)
    run = tiny_config(tmp_path, **DIGITS | {"feature_network": "inception"})
    with pytest.raises(
        FileNotFoundError,
        match=r"the download failed \(invalid hash value .*\); connect .*, set fid_weights",
    ):
        build_features(run)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@needs_fid
def test_inception_itself_and_foreign_weights(tmp_path, digits):
    """With weights drawn at random, which torch-fidelity reads like its own."""
    from asintrovae.data._torchvision import torchvision  # noqa: F401

    from torchmetrics.image.fid import NoTrainInceptionV3  # isort: skip

    path = tmp_path / "weights.pth"
    run = tiny_config(
        tmp_path, **DIGITS | {"feature_network": "inception", "fid_weights": str(path)}
    )
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="holds no weights of FID's InceptionV3") as caught:
        build_features(run)
    assert "\n" not in str(caught.value)
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # the network as torch initialises it, without its file
        patch.setattr(NoTrainInceptionV3, "load_state_dict", lambda *_: None)
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    torch.save(network.state_dict(), path)
    features = build_features(run)(digits[:2])
    assert features.shape == (2, 2048)
    torch.testing.assert_close(
        features, network((digits[:2] * 255).round().byte().repeat(1, 3, 1, 1))
    )


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"dataset": "cifar10"},
            "'mnist-classifier' knows digits only, not dataset='cifar10'; use .*'inception' "
            "or None",
        ),
        (
            {"dataset": "rings"},
            "looks at images, dataset='rings' is points; use feature_network=None",
        ),
        ({"evaluation_samples": 3}, "needs evaluation_samples of at least 4, got 3"),
        (
            {"feature_network": "vgg"},
            "feature_network='vgg': must be 'auto', 'mnist-classifier' or 'inception'",
        ),
    ],
)
def test_feature_networks_that_do_not_fit_are_refused(parameters, words, tmp_path):
    with pytest.raises(ParameterError, match=words):
        tiny_config(tmp_path, **DIGITS | parameters)


def brute_force(points, members, k):
    """Share of points in a ball, by definition, one by one."""

    def radius(a):
        return sorted((a - other).norm().item() for other in members)[k]  # the first is its own, 0

    inside = [any((x - a).norm().item() <= radius(a) for a in members) for x in points]
    return sum(inside) / len(points)


def test_precision_and_recall_by_definition(generator):
    real = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    fake = 1.5 * torch.randn(30, 3, generator=generator, dtype=torch.float64) + 0.5
    found = precision_recall(real, fake, k=2)
    assert found == (brute_force(fake, real, 2), brute_force(real, fake, 2))
    assert 0 < found.precision < 1
    assert found.recall != found.precision
    assert precision_recall(fake, real, k=2) == found[::-1]
    assert precision_recall(1000 + 7 * real, 1000 + 7 * fake, k=2) == found


def test_precision_and_recall_tell_lost_modes_from_bad_images(generator):
    """Two modes: a model of one has precision without recall, one that adds nonsense recall without
    precision."""
    left, right = (torch.randn(600, 8, generator=generator) + shift for shift in (-20, 20))
    real, other = torch.cat([left[:300], right[:300]]), torch.cat([left[300:], right[300:]])
    both, one = precision_recall(real, other), precision_recall(real, left[300:])
    assert min(both) > 0.8
    assert one.precision > 0.8
    assert 0.4 < one.recall < 0.5
    nonsense = precision_recall(
        real, torch.cat([other, 200 + 50 * torch.randn(600, 8, generator=generator)])
    )
    assert nonsense.recall > 0.8
    assert 0.4 < nonsense.precision < 0.5
    collapsed = real[:1].expand(600, -1)
    assert precision_recall(real, collapsed).precision == 1
    assert precision_recall(real, collapsed).recall < 0.01
    with pytest.raises(ValueError, match=r"fake has 3 examples, k=3 neighbours need at least 4"):
        precision_recall(real, real[:3])


def test_density_and_coverage_are_those_of_the_authors_package():
    """Numbers of prdc 0.2: compute_prdc(real, fake, nearest_k=k) with these features, and by the
    definitions, one by one."""
    rng = np.random.default_rng(26)
    real, fake = rng.normal(size=(300, 16)), 0.3 + 0.8 * rng.normal(size=(200, 16))
    given = torch.from_numpy(real), torch.from_numpy(fake)
    for k, density, coverage in ((5, 1.838, 0.9), (3, 1.78, 239 / 300)):
        found = density_coverage(*given, k=k)
        assert found == pytest.approx((density, coverage), abs=1e-12)
        radii = [sorted(np.linalg.norm(real - x, axis=1))[k] for x in real]
        balls = list(zip(real, radii, strict=True))
        counts = [sum(np.linalg.norm(y - x) < radius for y in fake) for x, radius in balls]
        assert found.density == pytest.approx(sum(counts) / (k * len(fake)), abs=1e-12)
        assert found.coverage == np.mean(np.array(counts) > 0)


def test_density_and_coverage_beyond_one_tile(generator):
    real, fake = torch.randn(2, 1300, 2, generator=generator)
    found = density_coverage(real, fake)
    distance = torch.cdist(real.double(), real.double())
    radii = distance.sort(dim=1).values[:, 5]
    inside = torch.cdist(real.double(), fake.double()) < radii[:, None]
    assert found == (inside.double().sum(0).mean() / 5, inside.any(1).double().mean())


def test_what_density_and_coverage_do_not_take():
    features = torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"real has 5 examples, k=5 neighbours need at least 6"):
        density_coverage(features, features)
    with pytest.raises(ValueError, match=r"shape \(5, 3\), fake \(5, 2\); give features of one"):
        density_coverage(features, features[:, :2], k=3)
    with pytest.raises(ValueError, match=r"fake has 1 examples, pairs of examples need at least 2"):
        kernel_distance(features, features[:1])


def test_kernel_distance_pair_by_pair_and_beyond_one_tile():
    rng = np.random.default_rng(27)
    real, fake = rng.normal(size=(1100, 4)), 0.2 + rng.normal(size=(30, 4))

    def mean(a, b, same):
        pairs = itertools.product(enumerate(a), enumerate(b))
        values = [(x @ y / 4 + 1) ** 3 for (i, x), (j, y) in pairs if not (same and i == j)]
        return math.fsum(values) / len(values)

    few = real[:40]
    expected = mean(few, few, True) + mean(fake, fake, True) - 2 * mean(few, fake, False)
    found = kernel_distance(torch.from_numpy(few), torch.from_numpy(fake))
    assert found == pytest.approx(expected, rel=1e-9)
    whole = (real @ real.T / 4 + 1) ** 3
    own = (whole.sum() - whole.trace()) / (1100 * 1099)
    expected = own + mean(fake, fake, True) - 2 * ((real @ fake.T / 4 + 1) ** 3).mean()
    found = kernel_distance(torch.from_numpy(real), torch.from_numpy(fake))
    assert found == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased():
    """Zero on average for samples of one distribution, whatever their number; of two Gaussians it
    is the value that quadrature gives."""
    rng = np.random.default_rng(28)
    for count in (5, 50):
        pairs = rng.normal(size=(400, 2, count, 3))
        values = [kernel_distance(*map(torch.from_numpy, pair)) for pair in pairs]
        assert abs(np.mean(values)) < 4 * np.std(values) / 20
        assert min(values) < 0 < max(values)
    # On the line, x ~ N(0, 1) and y ~ N(1, 1): the kernel is Σ_p binom(3, p) (xy)^p.
    moments_of = np.array([1, 0, 1, 0]), np.array([1, 1, 2, 4])
    exact = sum(math.comb(3, p) * (moments_of[0][p] - moments_of[1][p]) ** 2 for p in range(4))
    shift = np.array([0.0, 1.0]).reshape(2, 1, 1)
    pairs = shift + rng.normal(size=(400, 2, 40, 1))
    values = [kernel_distance(*map(torch.from_numpy, pair)) for pair in pairs]
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / 20


def test_scores_rank_digits_above_noise_and_bear_the_name(digits, tmp_path, generator):
    features = build_features(tiny_config(tmp_path, **DIGITS))
    train = find_images("mnist-subset")[0][:1000].float() / 255
    real = features(digits)
    candidates = (
        train,
        (train + 0.3 * torch.randn(train.shape, generator=generator)),
        torch.rand(train.shape, generator=generator),
    )
    good, noisy, noise = (
        evaluate_features(real, features(images), features.name) for images in candidates
    )
    measures = ("frechet", "precision", "recall", "kid", "density", "coverage")
    keys = [f"{measure}_mnist_classifier" for measure in measures]
    assert list(good) == ["feature_samples", *keys]
    assert good[keys[0]] < noisy[keys[0]] < noise[keys[0]]
    assert good[keys[2]] > noisy[keys[2]] > noise[keys[2]]
    assert good[keys[1]] > 0.7
    assert abs(good[keys[3]]) < 0.1 * noisy[keys[3]] < 0.1 * noise[keys[3]]
    assert good[keys[4]] > noisy[keys[4]] > noise[keys[4]]
    assert good[keys[5]] > noisy[keys[5]] > noise[keys[5]]


def test_scores_of_a_broken_generator_are_missing_not_good(generator):
    real, fake = torch.rand(2, 9, 4, generator=generator)
    fake[3] = torch.nan
    scores = evaluate_features(real, fake, "mnist-classifier")
    assert scores.pop("feature_samples") == 9
    assert all(map(math.isnan, scores.values()))


def test_a_run_can_be_scored_by_another_network_afterwards(tmp_path):
    run = tiny_config(
        tmp_path, **DIGITS | {"feature_network": None, "iterations": 2, "warmup": 1, "c": 0.5}
    )
    data, network, objective = build(run)
    before = train(network, objective, data, run).history
    scored = run.model_copy(
        update={"feature_network": "mnist-classifier", "fid_weights": "elsewhere.pth"}
    )
    assert train(network, objective, data, scored).history == before


@pytest.mark.parametrize("model", ["as_intro", "wgan_gp"])
def test_evaluate_scores_as_many_samples_as_test_images(model, tmp_path):
    run = tiny_config(
        tmp_path, model=model, evaluation_samples=1010, **DIGITS
    )  # more than there are, and than one part
    data, network, _ = build(run)
    features = build_features(run)
    metrics = evaluate(network, data, run, features)
    assert metrics["feature_samples"] == metrics["evaluation_samples"] == 1000
    by_hand = frechet_distance(
        *moments(features(data.test / 255)), *moments(features(sample(network, 1000, run.seed)))
    )
    assert abs(metrics["frechet_mnist_classifier"] / by_hand.item() - 1) < 1e-6
    assert ("psnr" in metrics) == (model != "wgan_gp")
    assert "fid" not in metrics
    assert "frechet_mnist_classifier" not in evaluate(network, data, run)
