"""The models that are measured: a ResNet-18 without trained weights, and the trained sample of this repository."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import at_root
from mlc import api
from mlc.artifact import Artifact, write_model
from mlc.sources.original import Original

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SAMPLE = Path("sample_models", "fashion_cnn")
SAMPLE_SOURCE = f"{SAMPLE}/model.py:model@{SAMPLE}/weights.safetensors"
SAMPLE_INPUTS = ["image=float32[batch=1..64,1,28,28]"]
CALIBRATION, EVALUATION = str(SAMPLE / "calibration.npz"), str(SAMPLE / "evaluation.npz")

RESNET_INPUTS = ["image=float32[batch=1..8,3,224,224]"]
TINY_INPUTS = ["image=float32[batch=1..8,3,32,32]"]


def resnet18() -> tuple[nn.Module, Tensor]:
    """ResNet-18 (He et al., Deep Residual Learning, 2015), 11.7 million parameters, and an image of 224 x 224."""
    return _resnet(64, 224)


def tiny_resnet() -> tuple[nn.Module, Tensor]:
    """The same network an eighth as wide, and an image of 32 x 32."""
    return _resnet(8, 32)


def _resnet(width: int, image: int) -> tuple[nn.Module, Tensor]:
    """Return the network with seeded weights, and an example."""
    import torch
    from torch import nn

    def convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
        layer = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(channels_out))

    class Block(nn.Module):
        def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
            super().__init__()
            same_shape = channels_in == channels_out and stride == 1
            self.first = convolution(channels_in, channels_out, 3, stride)
            self.second = convolution(channels_out, channels_out, 3, 1)
            self.shortcut = nn.Identity() if same_shape else convolution(channels_in, channels_out, 1, stride)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))

    class ResNet18(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = [width, width, 2 * width, 4 * width, 8 * width]
            self.stem = nn.Sequential(convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            blocks = []
            for index, (before, after) in enumerate(itertools.pairwise(widths)):
                blocks += [Block(before, after, 2 if index else 1), Block(after, after, 1)]
            self.blocks = nn.Sequential(*blocks)
            self.head = nn.Linear(widths[-1], 1000)

        def forward(self, image: Tensor) -> Tensor:
            return self.head(self.blocks(self.stem(image)).mean((2, 3)))  # type: ignore[no-any-return]

    generator = torch.Generator().manual_seed(0)
    network = ResNet18().eval()
    _draw(network, generator)
    return network, torch.randn(2, 3, image, image, generator=generator)


def _draw(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight, and the biases and statistics of the normalisations.

    With the 0 and 1 that those start with, a fold that forgot one of them would still be right.
    """
    import torch
    from torch import nn

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if isinstance(module, nn.Linear):
                module.bias.normal_(0, 0.1, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.weight.uniform_(0.5, 1.0, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)


def export_unoptimized(source: str, path: Path) -> float:
    """Write a model of this file as ``torch.onnx.export`` does without optimization; return the seconds that it took.

    Normalisations stay as they are, and every shape is computed in the graph.
    """
    import torch

    network, image = {"resnet18": resnet18, "tiny_resnet": tiny_resnet}[source]()
    start = time.perf_counter()
    batch = torch.export.Dim("batch", min=1, max=8)
    write_unoptimized(network, (image,), path, opset_version=20, input_names=["image"], output_names=["logits"],
                      dynamic_shapes=({0: batch},))  # fmt: skip
    return time.perf_counter() - start


def write_unoptimized(network: Any, given: tuple[Any, ...], path: Path, **options: Any) -> None:
    """Export a network as ``torch.onnx.export`` does without optimization, by these options of it."""
    import torch

    program = torch.onnx.export(network, given, dynamo=True, optimize=False, verbose=False, **options)
    assert program is not None
    program.save(path)


@dataclass(frozen=True)
class Sample:
    """The sample of this repository: its source, the unmodified export, and that after the default passes."""

    original: Original
    exported: Artifact
    rewritten: Artifact

    def int8(self, target: str, options: str = "") -> Artifact:
        """Return int8 of it by mlc: the default passes, and ``int8-static`` with its options."""
        with at_root():
            return api.rewrite(
                self.exported, self.original, passes=[f"int8-static{options}"], calibrate=CALIBRATION, target=target
            )


def sample() -> Sample:
    """Load and export the sample, and run the default passes over it."""
    with at_root():
        original = api.load(SAMPLE_SOURCE, inputs=SAMPLE_INPUTS)
        exported = api.export(original, data=CALIBRATION)
        return Sample(original, exported, api.rewrite(exported, original))


def write(artifacts: Mapping[str, Artifact], folder: Path) -> dict[str, Path]:
    """Write each artifact as it would ship, into a folder of its own; return the files by name."""
    files = {}
    for number, (name, artifact) in enumerate(artifacts.items()):
        place = folder / f"artifact-{number}"
        place.mkdir()
        files[name] = write_model(artifact.model, place)
    return files
