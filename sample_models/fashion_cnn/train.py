"""Train the sample network on Fashion-MNIST and write its weights, calibration and evaluation data beside this file.

    python -m sample_models.fashion_cnn.train [--images DIR] [--epochs N] [--seed S]
    python -m sample_models.fashion_cnn.train --full-test FILE.npz

Run it in the root of the repository. The second form trains nothing: it writes all 10,000 test images as the model
takes them. DIR holds the four .gz files of the data set; the Debian package dataset-fashion-mnist puts them where
--images looks when it is not given.
"""

import argparse
import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from sample_models.fashion_cnn.model import FashionCNN

HERE = Path(__file__).resolve().parent
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
# Mean and standard deviation of all pixels of the training set, the pixels scaled to 0..1.
MEAN, STD = 0.286, 0.353
BATCH = 128
LARGEST_SHIFT = 2
CALIBRATION_IMAGES, EVALUATION_IMAGES = 512, 2000
THREADS = 2

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """A gzipped IDX file of unsigned bytes: a magic number whose last byte is the rank, the sizes, the bytes."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=rank, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape.tolist())


def load(folder: Path, split: str) -> tuple[Images, Labels]:
    """Images float32 [n, 1, 28, 28], normalised, and labels int64 [n]; split is ``train`` or ``t10k``."""
    pixels = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz")
    # By table, so that equal pixels are equal floats on every machine.
    table = ((np.arange(256) / 255 - MEAN) / STD).astype(np.float32)
    return table[pixels][:, None], labels.astype(np.int64)


def choose(images: Images, labels: Labels, count: int, seed: int) -> tuple[Images, Labels]:
    """``count`` images with their labels, chosen at random without repetition, in the data set's order."""
    chosen = np.sort(np.random.default_rng(seed).choice(len(images), count, replace=False))
    return images[chosen], labels[chosen]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored with probability one half, and shifted by up to two pixels each way."""
    count, _, height, width = images.shape
    flip = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    flipped = torch.where(flip, images.flip(3), images)
    # The background is black, which is not 0 once normalised.
    padded = nn.functional.pad(flipped, [LARGEST_SHIFT] * 4, value=-MEAN / STD)[:, 0]
    down, right = torch.randint(2 * LARGEST_SHIFT + 1, (2, count, 1, 1), generator=generator)
    rows = down + torch.arange(height).view(1, -1, 1)
    columns = right + torch.arange(width).view(1, 1, -1)
    return padded[torch.arange(count).view(-1, 1, 1), rows, columns][:, None]


def batches(images: Tensor, labels: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented batches in random order; the incomplete last batch is left out."""
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        yield augment(images[chosen], generator), labels[chosen]


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, generator: torch.Generator) -> None:
    """Stochastic gradient descent with Nesterov momentum, one cycle of the learning rate, smoothed labels."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()
    for epoch in range(epochs):
        started, total = time.monotonic(), 0.0
        for batch, targets in batches(images, labels, generator):
            optimizer.zero_grad()
            loss = loss_of(network(batch.contiguous(memory_format=torch.channels_last)), targets)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean_loss = total / (len(images) // BATCH)
        print(f"epoch {epoch + 1}/{epochs}: loss {mean_loss:.4f}, {time.monotonic() - started:.0f} s", flush=True)


@torch.inference_mode()
def top1(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose largest logit is the right class."""
    network.eval()
    answers = torch.cat([network(batch).argmax(1) for batch in images.split(500)])
    return (answers == labels).float().mean().item()


def write_data(path: Path, images: Images, labels: Labels) -> None:
    """One .npz file of the arrays ``image`` and ``labels``."""
    np.savez_compressed(path, image=images, labels=labels)


def write_weights(network: nn.Module, path: Path) -> None:
    """The state dict as safetensors, every tensor in the usual memory order."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def deterministic(seed: int) -> torch.Generator:
    """Seed torch, so that it draws and computes the same in every run, and return a generator for the rest."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(mode=True)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def run(folder: Path, epochs: int, seed: int) -> None:
    """Train, measure on all test images, and write the three files."""
    started = time.monotonic()
    generator = deterministic(seed)
    train_images, train_labels = load(folder, "train")
    test_images, test_labels = load(folder, "t10k")

    network = FashionCNN().to(memory_format=torch.channels_last)
    train(network, torch.from_numpy(train_images), torch.from_numpy(train_labels), epochs, generator)
    accuracy = top1(network, torch.from_numpy(test_images), torch.from_numpy(test_labels))

    write_weights(network, HERE / "weights.safetensors")
    write_data(HERE / "calibration.npz", *choose(train_images, train_labels, CALIBRATION_IMAGES, seed))
    write_data(HERE / "evaluation.npz", *choose(test_images, test_labels, EVALUATION_IMAGES, seed))
    print(f"top-1 on {len(test_images)} test images {accuracy:.4f}, {time.monotonic() - started:.0f} s in all")


def asked(description: str, epochs: int) -> argparse.ArgumentParser:
    """Return the command line of what trains on this data set."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=Path, default=DEBIAN_FOLDER, metavar="DIR", help="where the .gz files are")
    parser.add_argument("--epochs", type=int, default=epochs, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    return parser


def main() -> None:
    """Read the command line."""
    parser = asked("Train the sample network on Fashion-MNIST.", epochs=12)
    parser.add_argument("--full-test", type=Path, metavar="FILE.npz", help="only write all 10,000 test images there")
    arguments = parser.parse_args()
    if arguments.full_test:
        write_data(arguments.full_test, *load(arguments.images, "t10k"))
    else:
        run(arguments.images, arguments.epochs, arguments.seed)


if __name__ == "__main__":
    main()
