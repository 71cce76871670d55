"""Scales, zero points and codes: u8 activations by tensor, s8 weights by channel, s32 biases.

A real number is ``scale * (code - zero_point)``. All scales are float32, all divisions by them are done in float32, and
halves are rounded to the even neighbour, as QuantizeLinear does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlc.errors import PassError

if TYPE_CHECKING:
    from mlc.formats.layout import WeightLayout

Float = NDArray[np.float32]

LARGEST_CODE = 127
LARGEST_ACTIVATION = 255
SMALLEST_SCALE = np.finfo(np.float32).tiny
"""The smallest normal float32: below it, processors that flush denormals to zero would divide by zero."""

LARGEST_SUM = 2**31 - 1

LONGEST_SUM = LARGEST_SUM // (LARGEST_ACTIVATION * LARGEST_CODE)
"""So many products of an activation and a weight fit into 32 bits, whatever they are."""


@dataclass(frozen=True)
class Affine:
    """How a tensor of activations becomes unsigned 8-bit codes."""

    scale: np.float32
    zero_point: int

    @property
    def low(self) -> float:
        """The smallest number that has a code."""
        return float(-self.zero_point * float(self.scale))

    @property
    def high(self) -> float:
        """The largest number that has a code."""
        return float((LARGEST_ACTIVATION - self.zero_point) * float(self.scale))


def activation_parameters(low: float, high: float, name: str = "a tensor") -> Affine:
    """Map ``low..high``, widened to include 0, to 0..255; a range of nothing but 0 is taken for 0..1.

    ``scale = (high - low) / 255`` and ``zero_point = clip(rint(0 - low / scale), 0, 255)``. Raises PassError, naming
    the tensor, for a range that is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PassError(
            f"the range of {name} is {low:g}..{high:g}, which no scale can hold", "keep the nodes around it float"
        )
    lowest, highest = np.float32(min(low, 0.0)), np.float32(max(high, 0.0))
    if lowest == highest:
        highest = np.float32(1)
    with np.errstate(over="ignore", under="ignore"):
        scale = np.float32((highest - lowest) / np.float32(LARGEST_ACTIVATION))
    if not np.isfinite(scale):
        scale = np.float32((float(highest) - float(lowest)) / LARGEST_ACTIVATION)
    scale = np.maximum(scale, SMALLEST_SCALE)
    return Affine(scale, int(np.clip(np.rint(0 - lowest / scale), 0, LARGEST_ACTIVATION)))


def quantize(values: Float, affine: Affine) -> NDArray[np.uint8]:
    """Return ``clip(rint(values / scale) + zero_point, 0, 255)``, of the same shape."""
    codes: Float = np.rint(values / affine.scale) + np.float32(affine.zero_point)
    return codes.clip(0, LARGEST_ACTIVATION).astype(np.uint8)


def dequantize(codes: NDArray[np.uint8], affine: Affine) -> Float:
    """Return ``scale * (codes - zero_point)``, of the same shape."""
    return (codes.astype(np.int32) - affine.zero_point).astype(np.float32) * affine.scale


def full_scales(weight: Float, layout: WeightLayout) -> Float:
    """Return the scales that use all of -127..127: ``max|w| / 127`` by channel, float32 [channels].

    A channel of zeros has the smallest normal number for a scale, as has one whose weights are smaller than that.
    """
    rest = tuple(axis for axis in range(weight.ndim) if axis != layout.axis)
    largest = np.maximum(weight.max(axis=rest, initial=0), -weight.min(axis=rest, initial=0)).astype(np.float32)
    scales: Float = np.maximum(largest / np.float32(LARGEST_CODE), SMALLEST_SCALE)
    return scales


def quantize_weight(weight: Float, scales: Float, layout: WeightLayout) -> NDArray[np.int8]:
    """Return ``clip(rint(weight / scale), -127, 127)``, of the same shape."""
    codes: Float = np.divide(weight, layout.per_channel(scales, weight.ndim), dtype=np.float32)
    np.rint(codes, out=codes)
    np.clip(codes, -LARGEST_CODE, LARGEST_CODE, out=codes)
    return codes.astype(np.int8)


def bias_safe_scales(scales: Float, bias: Float | None, x_scale: np.float32, reduction: int) -> Float:
    """Enlarge the weight scales of channels whose bias would not fit into 32 bits, or whose bias scale would vanish.

    The bias has the scale ``x_scale * weight_scale``. Beside it, 32 bits hold ``reduction`` products of 255 * 127; a
    larger scale costs such a channel precision of weights that are tiny beside its bias anyway. Returns float32
    [channels].
    """
    room = max(LARGEST_SUM - reduction * LARGEST_ACTIVATION * LARGEST_CODE, LARGEST_SUM // 4)
    needed = np.full(scales.shape, float(SMALLEST_SCALE))
    if bias is not None:
        needed = np.maximum(needed, np.abs(bias.astype(np.float64)) / room)
    smallest = needed * (1 + 2**-20) / float(x_scale)
    too_small = scales.astype(np.float64) < smallest
    return np.where(too_small, smallest.astype(np.float32), scales)


def bias_codes(bias: Float, x_scale: np.float32, scales: Float) -> NDArray[np.int32]:
    """Return ``rint(bias / (x_scale * weight_scale))``, int32 [channels]; the scales come from ``bias_safe_scales``."""
    codes = np.rint(bias / (x_scale * scales))
    assert (np.abs(codes.astype(np.float64)) <= LARGEST_SUM).all(), "a bias does not fit into 32 bits"
    return codes.astype(np.int32)
