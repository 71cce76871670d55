"""What codes mean: scales and zero points by tensor, axis or block, and how far numbers are from the nearest code."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlc.compare import powers, ratio_db
from mlc.explaining.nouns import TensorError

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array


@dataclass(frozen=True)
class Grid:
    """The numbers that have a code: ``scale * (code - zero_point)`` for codes from ``least`` to ``most``.

    Scale and zero point broadcast over the tensor.
    """

    scale: Array
    zero_point: Array
    least: int
    most: int

    @property
    def lowest(self) -> float:
        """The smallest number that has a code."""
        return float(((self.least - self.zero_point) * self.scale).min(initial=0.0))

    @property
    def highest(self) -> float:
        """The largest number that has a code."""
        return float(((self.most - self.zero_point) * self.scale).max(initial=0.0))

    def meant(self, codes: Array) -> Array:
        """Return what codes mean, in float32."""
        return np.asarray((codes.astype(np.float32) - self.zero_point) * self.scale, np.float32)

    def rounded(self, values: Array) -> Array:
        """Return the numbers that have a code and are nearest, in float32."""
        codes = np.rint(values / self.scale) + self.zero_point
        return self.meant(codes.clip(self.least, self.most))

    def turned(self) -> Grid:
        """Return the same for the transposed tensor."""
        return Grid(self.scale.T, self.zero_point.T, self.least, self.most)

    def outside(self, values: Array) -> int:
        """Count the values that are farther from all codes than half a step."""
        least, most = self.least - self.zero_point - 0.5, self.most - self.zero_point + 0.5
        return int(((values < least * self.scale) | (values > most * self.scale)).sum())


class Meaning(Protocol):
    """Numbers that something can stand for: which they are, and how many of some values they are not."""

    @property
    def lowest(self) -> float:
        """The smallest of them."""

    @property
    def highest(self) -> float:
        """The largest of them."""

    def outside(self, values: Array) -> int:
        """Count the values that lie outside."""


def code_range(dtype: ir.DataType) -> tuple[int, int] | None:
    """Return the least and the largest code of an integer type, None for other types."""
    if dtype.name.startswith("UINT"):
        return 0, 2**dtype.bitwidth - 1
    half = 2 ** (dtype.bitwidth - 1)
    return (-half, half - 1) if dtype.name.startswith("INT") else None


def laid_out(parameter: Array, shape: tuple[int, ...], axis: int, block: int = 0) -> Array:
    """Return a scale or zero point as it broadcasts over a tensor: one, one for each index of an axis, or of blocks.

    One of more axes is of a stack of matrices, for the columns of each; without an axis of rows, or with one of size 1.
    """
    values = np.asarray(parameter, np.float32)
    if values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis)[tuple(map(slice, shape))]
    if values.ndim > 1:
        return values if values.ndim == len(shape) else np.expand_dims(values, -2)
    return values.reshape([-1 if index == axis % len(shape) else 1 for index in range(len(shape))])


@dataclass
class Seen:
    """Sums over the numbers of one tensor and what stands for them."""

    powers: Array = field(default_factory=lambda: np.zeros(2))
    count: int = 0
    outside: int = 0
    low: float = math.inf
    high: float = -math.inf
    lowest: float = math.inf
    highest: float = -math.inf

    def add(self, values: Array, stands: Array, grid: Meaning) -> None:
        """Add numbers, what stands for them, and the codes that they had."""
        self.powers += powers(values, stands)
        self.count += values.size
        self.outside += grid.outside(values)
        finite = values[np.isfinite(values)]
        self.low = min(self.low, float(finite.min(initial=math.inf)))
        self.high = max(self.high, float(finite.max(initial=-math.inf)))
        self.lowest, self.highest = min(self.lowest, grid.lowest), max(self.highest, grid.highest)

    def told(self, name: str, kind: str, dtype: ir.DataType | None, readers: tuple[str, ...]) -> TensorError:
        """Return what was seen of a tensor."""
        return TensorError(
            name, kind, "uint8" if dtype is None else dtype.name.lower(), ratio_db(*self.powers),
            self.outside / max(self.count, 1), self.low, self.high, self.lowest, self.highest, readers,
        )  # fmt: skip
