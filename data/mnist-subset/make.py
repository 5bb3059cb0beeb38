"""Draw the embedded subset of MNIST from the four original files: 6,000 training and 1,000 test
digits, balanced.

usage: python data/mnist-subset/make.py FOLDER_WITH_THE_ORIGINAL_GZ_FILES
Deterministic: the same input gives files of the same SHA-256, which is written to SHA256SUMS.
"""

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SEED = 20220723
PER_CLASS = {"train": 600, "t10k": 100}


def read_idx(path: Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    dims = content[3]
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def main(source: Path) -> None:
    rng = np.random.default_rng(SEED)
    for split, per_class in PER_CLASS.items():
        images, labels = (
            read_idx(source / f"{split}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")
        )
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(labels == digit), per_class, False) for digit in range(10)]
        )
        rng.shuffle(chosen)
        write_idx(HERE / f"{split}-images-idx3-ubyte.gz", images[chosen])
        write_idx(HERE / f"{split}-labels-idx1-ubyte.gz", labels[chosen])
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(HERE.glob("*.gz"))
    ]
    (HERE / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
