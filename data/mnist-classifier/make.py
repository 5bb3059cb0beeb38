"""Train the small digit classifier whose features score generated digits: full MNIST, 8 epochs,
about two minutes on a core.

usage: OMP_NUM_THREADS=1 python data/mnist-classifier/make.py FOLDER_WITH_THE_ORIGINAL_GZ_FILES
Writes mnist-classifier.safetensors, with the accuracy on the 10,000 test digits in its header, and
SHA256SUMS. The seed fixes everything; another version of torch or another processor rounds
differently and gives other weights of like accuracy.
"""

import hashlib
import platform
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from tqdm import trange

from asintrovae.data.sources import read_idx
from asintrovae.evaluation.features import MNISTClassifier

HERE = Path(__file__).resolve().parent
SEED, EPOCHS, BATCH, RATE = 20220723, 8, 128, 3e-3


def shifted(images: Tensor) -> Tensor:
    """Images (B, 1, 28, 28), all moved by the same -2 to 2 pixels along either axis, black coming
    in."""
    down, right = torch.randint(0, 5, (2,)).tolist()
    return pad(images, (2, 2, 2, 2))[..., down : down + 28, right : right + 28]


def train(images: Tensor, labels: Tensor) -> MNISTClassifier:
    torch.manual_seed(SEED)
    network = MNISTClassifier()
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    for _ in trange(EPOCHS, desc="epochs"):
        for chosen in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            loss = cross_entropy(network.head(network(shifted(images[chosen]))), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: MNISTClassifier, images: Tensor, labels: Tensor) -> float:
    right = [network.head(network(part)).argmax(1) for part in images.split(500)]
    return (torch.cat(right) == labels).float().mean().item()


def main(source: Path) -> None:
    torch.set_num_threads(1)
    train_set, test_set = (
        (
            read_idx(source / f"{split}-images-idx3-ubyte.gz").unsqueeze(1),
            read_idx(source / f"{split}-labels-idx1-ubyte.gz").long(),
        )
        for split in ("train", "t10k")
    )
    network = train(*train_set)
    header = {
        "test_accuracy": f"{accuracy(network, *test_set):.4f}",
        "seed": str(SEED),
        "torch": torch.__version__,
    }
    header["machine"] = platform.machine()
    path = HERE / "mnist-classifier.safetensors"
    save_file(network.state_dict(), path, metadata=header)
    (HERE / "SHA256SUMS").write_text(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    )
    print(header)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
