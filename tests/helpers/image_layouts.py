"""Tiny image data sets in the layouts of the real ones; torchvision is told their checksums."""

import hashlib
import pickle

import numpy as np
from PIL import Image

from asintrovae.data._torchvision import torchvision

datasets = torchvision.datasets


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def save(path, shade, size=(20, 30)):
    """An image of this mean, lighter on the right where it is not black: two greys, which survive
    JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    step = min(shade, 4)
    image = Image.new("L", size, shade + step)
    image.paste(shade - step, (0, 0, size[0] // 2, size[1]))
    image.convert("RGB").save(path, quality=95)


def cifar10(root, monkeypatch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for i, name in enumerate(names):
        shades = [200 if name == "test_batch" else 20 * i + j for j in range(2)]
        content = {
            "data": np.repeat(np.array(shades, np.uint8)[:, None], 3072, 1),
            "labels": [0, 1],
        }
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(folder / "batches.meta")}
    )
    return folder / "data_batch_3"


def celeba(root, monkeypatch):
    """Eight faces for training, one for validation, two for testing."""
    folder = root / "celeba"
    names = [f"{i:06d}.jpg" for i in range(1, 12)]
    for i, name in enumerate(names):
        save(
            folder / "img_align_celeba" / name,
            200 if i > 8 else 100 if i == 8 else 10 * i,
            (178, 218),
        )
    tables = {
        "list_eval_partition.txt": ([], [0] * 8 + [1] + [2] * 2, 1),
        "identity_CelebA.txt": ([], range(11), 1),
        "list_attr_celeba.txt": (["11", "Bald Young"], [-1] * 11, 2),
        "list_bbox_celeba.txt": (["11", "image_id x_1 y_1 width height"], [7] * 11, 4),
        "list_landmarks_align_celeba.txt": (["11", "lefteye_x lefteye_y"], [5] * 11, 2),
    }
    for table, (header, values, columns) in tables.items():
        rows = [
            " ".join([name, *[str(value)] * columns])
            for name, value in zip(names, values, strict=True)
        ]
        (folder / table).write_text("\n".join([*header, *rows]) + "\n")
    sums = [
        (id_, md5(folder / table) if table in tables else old, table)
        for id_, old, table in datasets.CelebA.file_list
    ]
    monkeypatch.setattr(datasets.CelebA, "file_list", sums)
    return folder / "identity_CelebA.txt"


def pet(root, monkeypatch):
    folder = root / "oxford-iiit-pet"
    for split, shades in {"trainval": range(0, 80, 10), "test": (200, 200)}.items():
        names = [f"{'Abyssinian' if i % 2 else 'beagle'}_{split}{i}" for i, _ in enumerate(shades)]
        for name, shade in zip(names, shades, strict=True):
            save(folder / "images" / f"{name}.jpg", shade, (40, 25))
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{split}.txt").write_text(
            "".join(f"{name} 1 1 1\n" for name in names)
        )
    return folder / "annotations" / "test.txt"


def flowers(root, monkeypatch):
    from scipy.io import savemat

    folder = root / "flowers-102"
    for number in range(1, 11):
        save(folder / "jpg" / f"image_{number:05d}.jpg", 200 if number > 8 else 10 * (number - 1))
    savemat(folder / "imagelabels.mat", {"labels": np.ones((1, 10), int)})
    savemat(
        folder / "setid.mat",
        {
            "trnid": np.array([[1, 2, 3, 4, 5]]),
            "valid": np.array([[6, 7, 8]]),
            "tstid": np.array([[9, 10]]),
        },
    )
    sums = {
        key: (name, md5(folder / name) if name.endswith("mat") else old)
        for key, (name, old) in FLOWERS.items()
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", sums)
    return folder / "setid.mat"


FLOWERS = datasets.Flowers102._file_dict


def folder(root, monkeypatch):
    """Eleven images in two folders, those for testing first and last."""
    shades = [200, *range(0, 80, 10), 80, 200]
    for i, shade in enumerate(shades):
        save(root / ("a" if i < 4 else "b/c") / f"{i:02d}.{('png', 'JPG', 'bmp')[i % 3]}", shade)
    return root / "a"


LAYOUTS = {
    "cifar10": (cifar10, (3, 32, 32)),
    "celeba128": (celeba, (3, 128, 128)),
    "celeba256": (celeba, (3, 256, 256)),
    "pet128": (pet, (3, 128, 128)),
    "flowers64": (flowers, (3, 64, 64)),
    "flowers128": (flowers, (3, 128, 128)),
    "folder": (folder, (3, 16, 16)),
}
