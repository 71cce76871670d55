"""Train the depthwise network on Fashion-MNIST, as fashion_cnn was, and write its weights beside this file.

    python -m sample_models.depthwise_cnn.train [--images DIR] [--epochs N] [--seed S]

Run it in the root of the repository. It calibrates on and is judged by the images of fashion_cnn.
"""

from pathlib import Path

import torch

from sample_models.depthwise_cnn.model import DepthwiseCNN
from sample_models.fashion_cnn.train import asked, deterministic, load, top1, train, write_weights

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Train, measure on all test images, and write the weights."""
    arguments = asked("Train the depthwise network on Fashion-MNIST.", epochs=4).parse_args()
    images, labels = map(torch.from_numpy, load(arguments.images, "train"))
    test_images, test_labels = map(torch.from_numpy, load(arguments.images, "t10k"))
    generator = deterministic(arguments.seed)
    network = DepthwiseCNN().to(memory_format=torch.channels_last)
    train(network, images, labels, arguments.epochs, generator)
    print(f"top-1 on {len(test_images)} test images {top1(network, test_images, test_labels):.4f}")
    write_weights(network, HERE / "weights.safetensors")


if __name__ == "__main__":
    main()
