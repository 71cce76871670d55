"""Weights whose products cannot saturate where two of them are added in 16 bits.

x86 processors without VNNI multiply unsigned by signed bytes and add neighbouring products in a saturating int16.
Which elements are neighbours depends on the kernel:

- onnxruntime: positions 2k and 2k+1 along the reduction; for Conv (tap, channel of the group) flattened, so with
  an odd number of channels the pairs wrap over taps;
- OpenVINO: channels 2k and 2k+1 inside one tap, a last odd channel alone.

Their depthwise kernels never do it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlc.formats.affine import LARGEST_ACTIVATION, Float

if TYPE_CHECKING:
    from mlc.formats.layout import WeightLayout
    from mlc.types import Array

LOWEST, HIGHEST = -(2**15), 2**15 - 1

LARGEST_PAIR = HIGHEST // LARGEST_ACTIVATION
"""The largest sum of the magnitudes of two codes of one sign: 255 * 128 fits into 16 bits on both sides, 255 * 129 does
not on either."""


class Order(Enum):
    """Whose order of additions."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "OpenVINO"


ORDERS = (Order.ONNXRUNTIME, Order.OPENVINO)


def pairs(weight: Array, layout: WeightLayout, order: Order) -> Array:
    """Return [channels, pairs, 2]: the elements whose products are added in 16 bits; the odd one out has 0 beside it.

    A depthwise weight has no pairs.
    """
    if layout.depthwise(weight.shape):
        return np.zeros((weight.shape[0], 0, 2), weight.dtype)
    rows = layout.rows(weight)
    if order is Order.ONNXRUNTIME:
        rows = rows.reshape(rows.shape[0], 1, -1)
    if rows.shape[2] % 2:
        rows = np.concatenate([rows, np.zeros((*rows.shape[:2], 1), rows.dtype)], axis=2)
    return rows.reshape(rows.shape[0], -1, 2)


def saturating_pairs(
    codes: NDArray[np.int8], layout: WeightLayout, order: Order, highest: int = LARGEST_ACTIVATION
) -> int:
    """Count the pairs of which some unsigned activations up to ``highest`` make a sum that 16 bits cannot hold.

    The largest sum of a pair has ``highest`` at its positive codes and 0 at the negative ones, the smallest the
    reverse.
    """
    both = pairs(codes, layout, order).astype(np.int32)
    largest = highest * np.maximum(both, 0).sum(axis=2)
    smallest = highest * np.minimum(both, 0).sum(axis=2)
    return int(((largest > HIGHEST) | (smallest < LOWEST)).sum())


def pairs_fit(codes: NDArray[np.int8], layout: WeightLayout, orders: Iterable[Order] = ORDERS) -> bool:
    """Return whether no product sum can saturate, whatever the activations, in any of the orders."""
    return not any(saturating_pairs(codes, layout, order) for order in orders)


def safe_scales(weight: Float, scales: Float, layout: WeightLayout, orders: Iterable[Order] = ORDERS) -> Float:
    """Return the smallest float32 scales, none below ``scales``, whose codes satisfy ``pairs_fit``: float32 [channels].

    No code's magnitude grows with the scale (a correctly rounded quotient is monotone), so neither does a pair's sum:
    only pairs that fail at ``scales`` matter, and a bisection over float32's bit patterns finds the smallest scale of
    each exactly.
    """
    found = scales.copy()
    for order in orders:
        both = pairs(weight, layout, order)
        first, second = np.abs(both[..., 0]), np.abs(both[..., 1])
        one_sign = np.signbit(both[..., 0]) == np.signbit(both[..., 1])
        failing = one_sign & ~_fit(first, second, found[:, np.newaxis])
        channels = np.nonzero(failing)[0]
        np.maximum.at(found, channels, _smallest(first[failing], second[failing], found[channels]))
    return found


def _fit(first: Float, second: Float, scales: Float) -> NDArray[np.bool_]:
    fits: NDArray[np.bool_] = np.rint(first / scales) + np.rint(second / scales) <= LARGEST_PAIR
    return fits


def _smallest(first: Float, second: Float, failing: Float) -> Float:
    """Bisect between a scale at which each pair fails and its double, at which every code is at most 64."""
    low, high = failing.view(np.int32).copy(), (2 * failing).view(np.int32).copy()
    while (high - low > 1).any():
        middle = low + (high - low) // 2
        fits = _fit(first, second, middle.view(np.float32))
        high, low = np.where(fits, middle, high), np.where(fits, low, middle)
    return high.view(np.float32)
