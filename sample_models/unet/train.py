"""Draw the images, train the U-Net on them, and write weights, calibration and evaluation data beside this file.

    python -m sample_models.unet.train [--epochs N] [--seed S]

Run it in the root of the repository. It needs nothing but its seed.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sample_models.fashion_cnn.train import deterministic, write_data, write_weights
from sample_models.unet.model import CLASSES, UNet, miou

HERE = Path(__file__).resolve().parent
SIZE = 48
GREYS = 32
BATCH = 25
TRAINING_IMAGES, CALIBRATION_IMAGES, EVALUATION_IMAGES = 1000, 64, 200
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]

Mask = NDArray[np.bool_]


def circle(rng: np.random.Generator) -> Mask:
    """The pixels of a disc of radius 3 to 9."""
    row, column = rng.uniform(6, SIZE - 6, 2)
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= rng.uniform(3, 9) ** 2


def rectangle(rng: np.random.Generator) -> Mask:
    """The pixels of a rectangle of sides 5 to 18, turned by any angle."""
    row, column = rng.uniform(6, SIZE - 6, 2)
    angle = rng.uniform(0, np.pi)
    along = (ROWS - row) * np.sin(angle) + (COLUMNS - column) * np.cos(angle)
    across = (ROWS - row) * np.cos(angle) - (COLUMNS - column) * np.sin(angle)
    return (np.abs(along) <= rng.uniform(2.5, 9)) & (np.abs(across) <= rng.uniform(2.5, 9))


def line(rng: np.random.Generator) -> Mask:
    """The pixels of a line across the whole image, 2 to 4 wide."""
    row, column = rng.uniform(12, SIZE - 12, 2)
    angle = rng.uniform(0, np.pi)
    return np.abs((ROWS - row) * np.cos(angle) - (COLUMNS - column) * np.sin(angle)) <= rng.uniform(1, 2)


SHAPES = {"circle": circle, "rectangle": rectangle, "line": line}


def draw(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images float32 [count, 1, 48, 48] and the class of each pixel, int64 [count, 48, 48].

    Each has one to four shapes, the later over the earlier, in greys of their own over a sloping ground, and noise. The
    greys are rounded to 32, as a cheap camera would, which keeps the files small.
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, 1, SIZE, SIZE), np.float32)
    labels = np.zeros((count, SIZE, SIZE), np.int64)
    for image, pixels in zip(images, labels, strict=True):
        slope = rng.uniform(-0.2, 0.2, 2) / SIZE
        grey = rng.uniform(0.3, 0.6) + slope[0] * ROWS + slope[1] * COLUMNS
        ground = grey.copy()
        for name in rng.choice(list(SHAPES), rng.integers(1, 5)):
            mask = SHAPES[name](rng)
            grey[mask] = ground[mask] + rng.choice([-1, 1]) * rng.uniform(0.12, 0.35)
            pixels[mask] = CLASSES.index(name)
        noisy = grey + rng.normal(0, 0.08, grey.shape)
        image[0] = np.round(noisy.clip(0, 1) * (GREYS - 1)) / (GREYS - 1)
    return images, labels


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, generator: torch.Generator) -> None:
    """AdamW with one cycle of the learning rate; each batch is mirrored both ways at random."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=8e-3, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss()
    network.train()
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            axes = [axis for axis in (-1, -2) if torch.rand((), generator=generator) < 0.5]
            batch = images[chosen].flip(axes).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            loss = loss_of(network(batch), labels[chosen].flip(axes))
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", flush=True)


@torch.inference_mode()
def mean_iou(network: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The mean over images of their intersection over union."""
    network.eval()
    return float(miou({"logits": network(torch.from_numpy(images)).numpy()}, labels).mean())


def main() -> None:
    """Draw three sets of images from seeds of their own, train, measure, and write the three files."""
    parser = argparse.ArgumentParser(description="Train the sample U-Net on drawn shapes.")
    parser.add_argument("--epochs", type=int, default=15, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    arguments = parser.parse_args()
    generator = deterministic(arguments.seed)
    images, labels = map(torch.from_numpy, draw(TRAINING_IMAGES, 3 * arguments.seed))
    calibration = draw(CALIBRATION_IMAGES, 3 * arguments.seed + 1)
    evaluation = draw(EVALUATION_IMAGES, 3 * arguments.seed + 2)
    network = UNet().to(memory_format=torch.channels_last)
    train(network, images, labels, arguments.epochs, generator)
    print(f"mIoU on {EVALUATION_IMAGES} images {mean_iou(network, *evaluation):.4f}")
    write_weights(network, HERE / "weights.safetensors")
    write_data(HERE / "calibration.npz", *calibration)
    write_data(HERE / "evaluation.npz", *evaluation)


if __name__ == "__main__":
    main()
