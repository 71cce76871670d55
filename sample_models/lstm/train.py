"""Train the recurrent network on Fashion-MNIST and write its weights beside this file.

    python -m sample_models.lstm.train [--images DIR] [--epochs N] [--seed S]

Run it in the root of the repository. It calibrates on and is judged by the images of fashion_cnn.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from sample_models.fashion_cnn.train import BATCH, asked, batches, deterministic, load, top1, write_weights
from sample_models.lstm.model import RowLSTM

HERE = Path(__file__).resolve().parent


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, generator: torch.Generator) -> None:
    """AdamW with one cycle of the learning rate; gradients are clipped, as recurrent layers need."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss()
    network.train()
    for epoch in range(epochs):
        for batch, targets in batches(images, labels, generator):
            optimizer.zero_grad()
            loss = loss_of(network(batch), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", flush=True)


def main() -> None:
    """Train, measure on all test images, and write the weights."""
    arguments = asked("Train the recurrent network on Fashion-MNIST.", epochs=1).parse_args()
    images, labels = map(torch.from_numpy, load(arguments.images, "train"))
    test_images, test_labels = map(torch.from_numpy, load(arguments.images, "t10k"))
    generator = deterministic(arguments.seed)
    network = RowLSTM()
    train(network, images, labels, arguments.epochs, generator)
    print(f"top-1 on {len(test_images)} test images {top1(network, test_images, test_labels):.4f}")
    write_weights(network, HERE / "weights.safetensors")


if __name__ == "__main__":
    main()
