"""Networks as .onnx files of other exporters: nothing folded, of an older opset, channels last."""

from __future__ import annotations

import logging
import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmarks.fusion_models import IMAGE, NETWORKS, Network, seeded
from benchmarks.models import write_unoptimized
from mlc.grammar.inputs import parse_inputs
from mlc.probes import probe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlc.types import InputSpec

OPSET = 18
"""What torch's exporter writes unless it is told otherwise."""

UNFOLDED = ("Llama written out", "ViT written out", "MobileNet, ReLU6", "ResNet-18")


class ChannelsLast(nn.Module):
    """A ResNet of which every convolution stands between two transposes, as converters of TensorFlow write it."""

    class Convolution(nn.Module):
        """A convolution of images [batch, height, width, channels]."""

        def __init__(self, taken: int, given: int, stride: int) -> None:
            super().__init__()
            self.inner = nn.Conv2d(taken, given, 3, stride, 1)

        def forward(self, image: Tensor) -> Tensor:
            """float32 [batch, height, width, channels] in and out."""
            return self.inner(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.first = self.Convolution(3, widths[0], 2)
        self.down = nn.ModuleList(self.Convolution(a, b, 2) for a, b in pairwise(widths))
        self.same = nn.ModuleList(self.Convolution(b, b, 1) for b in widths[1:])
        self.head = nn.Linear(widths[-1], 100)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [batch, 3, height, width] to [batch, 100]."""
        x = torch.relu(self.first(image.permute(0, 2, 3, 1)))
        for down, same in zip(self.down, self.same, strict=True):
            x = torch.relu(down(x))
            x = torch.relu(same(x)) + x
        return self.head(x.mean((1, 2)))  # type: ignore[no-any-return]


FILES = (
    *(network for network in NETWORKS if network.name in UNFOLDED),
    Network("CNN, channels last", seeded(ChannelsLast), IMAGE, {"batch": 1}),
)


def called(network: Network) -> str:
    """Return the name of a network as a file."""
    return f"{network.name}, an unfolded file"


def write(network: Network, folder: Path) -> Path:
    """Export a network by torch alone, without its optimizations, with the dims that its inputs say."""
    specs = parse_inputs(network.inputs)
    arrays = probe(specs, {dim.name: dim.low + 1 for spec in specs for dim in spec.dims if dim.name}, {}, None, 0)
    path = folder / f"{network.name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        given = tuple(torch.from_numpy(arrays[spec.name]) for spec in specs)
        write_unoptimized(network.build().eval(), given, path, opset_version=OPSET, dynamic_shapes=_dims(specs),
                          input_names=[spec.name for spec in specs])  # fmt: skip
    return path


def _dims(specs: Sequence[InputSpec]) -> tuple[dict[int, object], ...]:
    """Return which axes vary, for torch to name: those of a range."""
    return tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(spec.dims) if dim.low < dim.high} for spec in specs
    )
