"""Where the output channels of a weight are, and in which order its elements are added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mlc.types import Array

QUANTIZED_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gather": 0}
"""The axis of the weight that has a scale for each index; Gemm's depends on transB."""


def weight_axis(op: str, rank: int, *, trans_b: bool = False) -> int:
    """Return the axis of a weight along which scales differ: the output channels (Gather: the rows of the table).

    ConvTranspose has [in, out / group, ...], so its channels are at axis 1 and are shared by the groups. Raises
    KeyError for an operator without a weight.
    """
    if op == "Gemm":
        return 0 if trans_b else 1
    return QUANTIZED_AXIS[op] % rank


@dataclass(frozen=True)
class WeightLayout:
    """A weight's operator, quantized axis and number of groups."""

    op: str
    axis: int
    group: int = 1

    def depthwise(self, shape: tuple[int, ...]) -> bool:
        """Whether every output channel sees one input channel of its own, and there are several."""
        return self.op == "Conv" and shape[1] == 1 and shape[0] == self.group > 1

    def rows(self, weight: Array) -> Array:
        """Return the weight as [channels, taps, inputs], each channel's elements in the order in which they are added.

        Conv [out, in / group, *kernel]: the taps are the kernel's positions, the inputs the channels of the group.
        A matrix has one tap.
        """
        if self.op == "Conv":
            return np.moveaxis(weight.reshape(*weight.shape[:2], -1), 1, 2)
        channels_first = np.moveaxis(weight, self.axis, 0)
        return channels_first.reshape(channels_first.shape[0], 1, -1)

    def per_channel(self, scales: Array, rank: int) -> Array:
        """Return scales [channels] in a shape that broadcasts along the quantized axis."""
        return scales.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


def product_matrix(weight: Array) -> Array:
    """Return the weight of a MatMul, [..., rows, columns] or [rows], as one matrix [rows, columns of all]."""
    return weight[:, np.newaxis] if weight.ndim == 1 else np.moveaxis(weight, -2, 0).reshape(weight.shape[-2], -1)


def layout_of(op: str, rank: int, *, group: int = 1, trans_b: bool = False) -> WeightLayout:
    """Return the layout of the weight of one node."""
    return WeightLayout(op, weight_axis(op, rank, trans_b=trans_b), group)
