"""Weights by blocks: a scale, and perhaps a zero point, for each run of elements along the reduction of a column.

A weight is float32 [rows, columns], the rows being added up; blocks lie along the rows, the last one may be short. A
real number is ``scale * (code - zero_point)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlc.formats.affine import SMALLEST_SCALE, Float

Integers = NDArray[np.int32]

PACKED_BITS = 4
"""Codes of so many bits are kept two in a byte."""

BLOCKS = (128, 64, 32)
"""Sizes of blocks, the largest first."""


@dataclass(frozen=True)
class BlockScheme:
    """Codes of ``bits`` bits for blocks of ``block`` rows: signed around 0, or unsigned with a zero point."""

    bits: int
    block: int
    symmetric: bool

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return -(1 << self.bits - 1) if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The largest code."""
        return self.lowest + (1 << self.bits) - 1

    def fitted(self, rows: int) -> BlockScheme:
        """Return it with the largest block, up to its own, that divides so many rows, else with the smallest."""
        whole = (block for block in BLOCKS if block <= self.block and rows % block == 0)
        return replace(self, block=next(whole, BLOCKS[-1]))

    def blocks(self, rows: int) -> int:
        """Return the number of blocks of a column."""
        return -(-rows // self.block)

    def by_block(self, weight: Float) -> Float:
        """Return [blocks, block, columns]: the rows of each block, zeros behind the last."""
        rows, columns = weight.shape
        missing = self.blocks(rows) * self.block - rows
        return np.pad(weight, ((0, missing), (0, 0))).reshape(-1, self.block, columns)

    def parameters(self, weight: Float) -> tuple[Float, Integers]:
        """Return scales and zero points with which no element of a block is cut: both [blocks, columns].

        Symmetric: ``max(max / highest, min / lowest)`` and 0; else ``(max - min) / highest`` and
        ``rint(-min / scale)``, of a range widened to include 0. A block of zeros, or of what is smaller than any scale,
        has the smallest normal number for a scale.
        """
        groups = self.by_block(weight)
        high = np.maximum(groups.max(axis=1), 0)
        low = np.minimum(groups.min(axis=1), 0)
        if self.symmetric:
            scales = np.maximum(high / np.float32(self.highest), low / np.float32(self.lowest))
            return np.maximum(scales, SMALLEST_SCALE), np.zeros(scales.shape, np.int32)
        scales = np.maximum(high / np.float32(self.highest) - low / np.float32(self.highest), SMALLEST_SCALE)
        return scales, np.clip(np.rint(-low / scales), 0, self.highest).astype(np.int32)

    def round(self, weight: Float, scales: Float, zero_points: Integers) -> Integers:
        """Return ``clip(rint(weight / scale) + zero_point, lowest, highest)``, int32 [rows, columns]."""
        scale, zero_point = (np.repeat(each, self.block, axis=0)[: len(weight)] for each in (scales, zero_points))
        codes: Integers = np.clip(np.rint(weight / scale) + zero_point, self.lowest, self.highest).astype(np.int32)
        return codes


@dataclass(frozen=True)
class BlockCodes:
    """A weight as codes int32 [rows, columns], with scales float32 and zero points int32 [blocks, columns]."""

    scheme: BlockScheme
    codes: Integers
    scales: Float
    zero_points: Integers

    def dequantized(self) -> Float:
        """Return the weight that the codes mean, float32 [rows, columns]."""
        rows = len(self.codes)
        zero_point = np.repeat(self.zero_points, self.scheme.block, axis=0)[:rows]
        scale = np.repeat(self.scales, self.scheme.block, axis=0)[:rows]
        found: Float = (self.codes - zero_point).astype(np.float32) * scale
        return found

    def packed(self) -> tuple[NDArray[np.uint8], Float, NDArray[np.uint8] | None]:
        """Return codes, scales and zero points as onnxruntime's MatMulNBits keeps them.

        Codes uint8 [columns, blocks, block * bits / 8], the columns of the weight as rows, unsigned, zeros behind the
        last block's end; scales [columns, blocks]; zero points uint8 [columns, blocks * bits / 8 rounded up], None
        where all are ``2**(bits - 1)``, which is what none means. Of two codes in a byte the first has the lower bits.
        """
        scheme = self.scheme
        columns = self.codes.shape[1]
        missing = scheme.blocks(len(self.codes)) * scheme.block - len(self.codes)
        unsigned = np.pad((self.codes - scheme.lowest).T, ((0, 0), (0, missing))).astype(np.uint8)
        codes = _in_bytes(unsigned, scheme.bits).reshape(columns, len(self.scales), -1)
        scales = np.ascontiguousarray(self.scales.T)
        zero_points = None if scheme.symmetric else _in_bytes(self.zero_points.T.astype(np.uint8), scheme.bits)
        return codes, scales, zero_points


def _in_bytes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes along the last axis."""
    if bits != PACKED_BITS:
        return np.ascontiguousarray(codes)
    even = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return even[:, ::2] | even[:, 1::2] << np.uint8(PACKED_BITS)


def round_to_nearest(weight: Float, scheme: BlockScheme) -> BlockCodes:
    """Give each element the nearest code of its block."""
    scales, zero_points = scheme.parameters(weight)
    return BlockCodes(scheme, scheme.round(weight, scales, zero_points), scales, zero_points)
