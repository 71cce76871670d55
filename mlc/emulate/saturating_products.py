"""Sums of products of bytes as a processor without VNNI adds them: exact ones, and what its few cut pairs change.

Nearly all pairs of codes fit into 16 bits whatever the activations are, so the sums are computed exactly by a matrix
product of floats, which hold such integers, and only the pairs that may not fit are looked at one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlc.emulate.saturation import SHIFT, Product
from mlc.formats import Order, WeightLayout, pairs
from mlc.formats.nodes import integers, text
from mlc.formats.saturation import HIGHEST, LOWEST

if TYPE_CHECKING:
    from mlc.types import Array

HELD = 64 * 2**20
"""Bytes of activations that are laid out as columns at once."""

LARGEST_FACTOR = 255
"""The largest magnitude of a code less its zero point."""

FLOAT32_WHOLE = 2**24
"""Below this, float32 holds every whole number."""


@dataclass(frozen=True)
class Window:
    """How a Conv looks at an image: sizes by spatial axis; ``pads`` are those before and after each."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, node: ir.Node, sizes: Sequence[int], kernel: Sequence[int]) -> Window:
        """Read the attributes of a Conv for images of these sizes."""
        rank = len(kernel)
        strides, dilations = (tuple(integers(node, name)) or (1,) * rank for name in ("strides", "dilations"))
        given = integers(node, "pads") or [0] * (2 * rank)
        pads = tuple(zip(given[:rank], given[rank:], strict=True))
        automatic = text(node, "auto_pad", "NOTSET")
        if automatic == "VALID":
            pads = ((0, 0),) * rank
        elif automatic.startswith("SAME"):
            needed = [
                max((math.ceil(size / stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
                for size, stride, taps, dilation in zip(sizes, strides, kernel, dilations, strict=True)
            ]
            halves = [(each // 2, each - each // 2) for each in needed]
            pads = tuple(half if automatic == "SAME_UPPER" else half[::-1] for half in halves)
        return cls(tuple(kernel), strides, dilations, pads)

    def columns(self, images: Array, filling: int) -> Array:
        """Return [taps, channels, images, *places]: what each tap of the kernel sees at each place, as a view."""
        axes = tuple(range(2, images.ndim))
        padded = np.pad(images, ((0, 0), (0, 0), *self.pads), constant_values=filling)
        reach = tuple((taps - 1) * step + 1 for taps, step in zip(self.kernel, self.dilations, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
        steps = (*self.strides, *self.dilations)
        windows = windows[(slice(None), slice(None), *(slice(None, None, step) for step in steps))]
        places, taps = (tuple(range(start, start + len(axes))) for start in (2, 2 + len(axes)))
        return windows.transpose(*taps, 1, 0, *places)


@dataclass(frozen=True)
class Pairs:
    """Pairs of one output channel that some activations make too large: their places along the sum, and their codes."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    codes: NDArray[np.float32]


def risky_pairs(product: Product, order: Order | None) -> list[Pairs]:
    """Return the pairs of each output channel whose sum 16 bits may not hold; none where nothing is cut."""
    layout, codes = product.layout, product.codes
    rows = layout.rows(codes)
    if order is None or layout.depthwise(codes.shape) or not product.is_cut(order):
        return [_NO_PAIRS] * len(rows)
    by_tap = WeightLayout("Conv", 0)
    places = np.arange(rows[0].size).reshape(1, *rows.shape[1:])
    where = pairs(np.moveaxis(places, 1, 2), by_tap, order)[0]
    both = pairs(np.moveaxis(rows, 1, 2), by_tap, order).astype(np.int32)
    largest = product.highest * np.maximum(both, 0).sum(axis=2)
    smallest = product.highest * np.minimum(both, 0).sum(axis=2)
    risky = (largest > HIGHEST) | (smallest < LOWEST)
    return [
        Pairs(where[found, 0], where[found, 1], codes_of[found].astype(np.float32))
        for codes_of, found in zip(both, risky, strict=True)
    ]


_NO_PAIRS = Pairs(np.empty(0, np.intp), np.empty(0, np.intp), np.empty((0, 2), np.float32))


@dataclass(frozen=True)
class Sums:
    """Adds up the products of one weight in the order of a runtime; without an order exactly."""

    product: Product
    pairs: Sequence[Pairs]

    @classmethod
    def of(cls, product: Product, order: Order | None) -> Sums:
        """Find what is to be looked at one by one."""
        return cls(product, risky_pairs(product, order))

    @property
    def cut(self) -> bool:
        """Whether some activations are cut."""
        return any(len(each.first) for each in self.pairs)

    def matrix(self, activations: Array, zero_point: int, weight_zero_point: Array) -> NDArray[np.int64]:
        """Return codes [..., k] less their zero point times the weight less its own, added up: [..., channels]."""
        weight = self._weights(1)[0]
        flat = activations.reshape(-1, activations.shape[-1])
        found = [
            self._added(part.T, weight, self.pairs, zero_point, weight_zero_point)
            for part in _parts(flat, flat.shape[1])
        ]
        return np.concatenate(found, axis=1).T.reshape(*activations.shape[:-1], len(weight))

    def images(
        self, activations: Array, window: Window, zero_point: int, weight_zero_point: Array
    ) -> NDArray[np.int64]:
        """Return the same for images [images, channels, *sizes]: [images, outputs, *places]; what pads them is zero."""
        group, axis = self.product.layout.group, len(window.kernel)
        weights = self._weights(group)
        zeros = np.broadcast_to(weight_zero_point.reshape(-1, 1), (weights.shape[0] * weights.shape[1], 1))
        found = []
        for part in _parts(activations, math.prod(window.kernel) * math.prod(activations.shape[1:])):
            columns = window.columns(part, zero_point)
            places = columns.shape[axis + 1 :]
            outputs = []
            for index, inputs in enumerate(np.split(columns, group, axis=axis)):
                own = slice(index * weights.shape[1], (index + 1) * weights.shape[1])
                shaped = inputs.reshape(weights.shape[2], -1)
                outputs.append(self._added(shaped, weights[index], self.pairs[own], zero_point, zeros[own]))
            sums = np.concatenate(outputs)
            found.append(np.moveaxis(sums.reshape(len(sums), *places), 0, 1))
        return np.concatenate(found)

    def _weights(self, group: int) -> Array:
        """Return the codes as [groups, outputs of a group, k]."""
        rows = self.product.layout.rows(self.product.codes)
        return rows.reshape(group, len(rows) // group, -1)

    def _added(
        self, columns: Array, weight: Array, risky: Sequence[Pairs], zero_point: int, weight_zero_point: Array
    ) -> NDArray[np.int64]:
        """Return [outputs, columns] for columns [k, columns] and a weight [outputs, k]; all sums are whole numbers."""
        factors = weight.astype(np.float32) - weight_zero_point.astype(np.float32).reshape(-1, 1)
        largest = 2 * LARGEST_FACTOR * max(float(_longest(each)) for each in (factors, weight.astype(np.float32)))
        exact = np.dtype(np.float32 if largest < FLOAT32_WHOLE else np.float64)
        codes: NDArray[Any] = columns.astype(exact)
        sums: NDArray[Any] = factors.astype(exact) @ np.subtract(codes, zero_point, dtype=exact)
        shift = SHIFT if self.product.signed else 0
        for row, each in enumerate(risky):
            if len(each.first):
                left, right = each.codes[:, :1], each.codes[:, 1:]
                both = (codes[each.first] + shift) * left + (codes[each.second] + shift) * right
                sums[row] += (both.clip(LOWEST, HIGHEST) - both).sum(axis=0)
        found: NDArray[np.int64] = sums.astype(np.int64)
        return found


def _longest(rows: NDArray[np.float32]) -> np.float32:
    """Return the largest sum of magnitudes of a row."""
    return np.float32(np.abs(rows).sum(axis=1).max(initial=0))


def _parts(rows: Array, size: int) -> Iterator[Array]:
    """Split along axis 0 so that the columns of one part, ``size`` of one row, fit into ``HELD``; none are one part."""
    step = max(1, HELD // (4 * max(size, 1)))
    for start in range(0, max(len(rows), 1), step):
        yield rows[start : start + step]
