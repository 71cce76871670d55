"""The linear sample by hand, in float32 and integer for integer in int8.

The whole line (export, quantization, report) is compared with these functions, so they share nothing with it: NumPy
only, one function for each step. The format:

- activations: unsigned 8 bits, one scale and zero point for the tensor, from the extremes of the calibration data;
- weights: signed 8 bits, zero point 0, one scale for each output channel (a row of the weight [outputs, inputs]);
- bias: 32 bits, zero point 0, its scale the product of the two others;
- sums: 32 bits.

All scales are float32 and all divisions by them are done in float32. Halves are rounded to the even neighbour.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]

WEIGHT: Float = np.array(
    [
        [0.32421875, 0.30859375, -0.16015625, 0.06640625, -0.03515625, 0.24218750],
        [-0.37890625, 0.21093750, 0.08984375, -0.27734375, 0.14843750, -0.04687500],
        [0.05859375, 0.39453125, -0.12890625, -0.22656250, 0.18359375, -0.02343750],
        [-0.26562500, -0.07421875, 0.35156250, 0.02734375, -0.20312500, -0.30078125],
    ],
    dtype=np.float32,
)
BIAS: Float = np.array([0.14453125, -0.44140625, 0.02343750, -0.22656250], dtype=np.float32)

LARGEST_CODE = 127
INT16_LOWEST, INT16_HIGHEST = -32768, 32767


class Quantization(NamedTuple):
    """A real number is ``scale * (code - zero_point)``, the code an unsigned 8-bit integer."""

    scale: np.float32
    zero_point: int


def layer(x: Float) -> Float:
    """``x @ weight.T + bias``: float32 [batch, 6] -> float32 [batch, 4]."""
    return x @ WEIGHT.T + BIAS


def calibrate(values: Float) -> Quantization:
    """Map the range of ``values`` (any shape), widened to include 0, to 0..255.

    ``scale = (highest - lowest) / 255`` and ``zero_point = clip(rint(0 - lowest / scale), 0, 255)``.
    """
    lowest = min(values.min(), np.float32(0))
    highest = max(values.max(), np.float32(0))
    scale = np.float32((highest - lowest) / np.float32(255))
    return Quantization(scale, int(np.clip(np.rint(0 - lowest / scale), 0, 255)))


def quantize(values: Float, quantization: Quantization) -> UInt8:
    """``clip(rint(values / scale) + zero_point, 0, 255)``, of the same shape."""
    codes: Float = np.rint(values / quantization.scale) + quantization.zero_point
    return codes.clip(0, 255).astype(np.uint8)


def quantize_weight(weight: Float, scale: Float) -> Int8:
    """``clip(rint(weight / scale), -127, 127)``: [outputs, inputs] with scales [outputs] -> int8 [outputs, inputs]."""
    codes: Float = np.rint(weight / scale[:, np.newaxis])
    return codes.clip(-LARGEST_CODE, LARGEST_CODE).astype(np.int8)


def full_scale(weight: Float) -> Float:
    """The scales that use all of -127..127: ``max|w| / 127`` of each row (none may be all 0), float32 [outputs]."""
    largest: Float = np.abs(weight).max(axis=1)
    return largest / np.float32(LARGEST_CODE)


def pairs_fit(codes: Int8) -> bool:
    """Whether no sum of two neighbouring products with unsigned 8-bit numbers can leave 16 bits.

    CPUs without VNNI add the products of inputs 2k and 2k+1 in a saturating int16. The largest such sum has 255 at
    positive codes and 0 at negative ones, the smallest the reverse. ``codes`` [inputs] is one row of the weight; an odd
    one out has 0 for its neighbour.
    """
    even = np.append(codes, 0) if len(codes) % 2 else codes
    pairs = even.astype(np.int32).reshape(-1, 2)
    largest = 255 * np.maximum(pairs, 0).sum(axis=1)
    smallest = 255 * np.minimum(pairs, 0).sum(axis=1)
    return bool((largest <= INT16_HIGHEST).all() and (smallest >= INT16_LOWEST).all())


def breakpoints(row: Float) -> Float:
    """All float32 scales at which a code of ``row`` [inputs] may change, ascending, with ``max|w| / 127`` the first.

    A code leaves c + 1 for c where ``|w| / scale`` passes c + 1/2, so at ``|w| / (c + 1/2)``; since the quotient is
    rounded to float32, that may happen a few representable numbers away, which are candidates too.
    """
    lowest = full_scale(row[np.newaxis])[0]
    halves = np.arange(LARGEST_CODE) + 0.5
    exact = (np.abs(row.astype(np.float64))[:, np.newaxis] / halves).astype(np.float32).ravel()
    exact = exact[exact > 0]
    around = [exact]
    for direction in (np.float32(0), np.float32(np.inf)):
        moved = exact
        for _ in range(3):
            moved = np.nextafter(moved, direction)
            around.append(moved)
    candidates = np.concatenate([[lowest], *around])
    return np.unique(candidates[candidates >= lowest])


def safe_scale(weight: Float) -> Float:
    """The scales of saturation-safe codes, float32 [outputs].

    Of each row the smallest float32 ``scale >= max|w| / 127`` (the quotient in float32) for which
    ``clip(rint(w / scale), -127, 127)`` satisfies ``pairs_fit``, found by trying all breakpoints in ascending order: a
    code changes only there, and no code's magnitude grows with the scale.
    """

    def smallest(row: Float) -> np.float32:
        return next(
            scale for scale in breakpoints(row) if pairs_fit(quantize_weight(row[np.newaxis], scale[np.newaxis])[0])
        )

    return np.array([smallest(row) for row in weight], dtype=np.float32)


def quantize_bias(bias: Float, x_scale: np.float32, weight_scale: Float) -> Int32:
    """``rint(bias / (x_scale * weight_scale))``: int32 [outputs]."""
    return np.rint(bias / (x_scale * weight_scale)).astype(np.int32)


def accumulate(x: UInt8, x_zero_point: int, weight: Int8, bias: Int32) -> Int32:
    """``(x - x_zero_point) @ weight.T + bias`` in integers: codes [batch, inputs] -> int32 [batch, outputs]."""
    return (x.astype(np.int32) - np.int32(x_zero_point)) @ weight.T.astype(np.int32) + bias


def dequantize(accumulated: Int32, x_scale: np.float32, weight_scale: Float) -> Float:
    """``accumulated * (x_scale * weight_scale)``: float32 [batch, outputs]."""
    return accumulated.astype(np.float32) * (x_scale * weight_scale)


def requantize(accumulated: Int32, x_scale: np.float32, weight_scale: Float, output: Quantization) -> UInt8:
    """The sums as codes of the output: ``quantize(dequantize(accumulated), output)``, uint8 [batch, outputs].

    A kernel that multiplies by ``x_scale * weight_scale / output.scale`` instead may differ by one where that is
    halfway between two codes, up to float32's last bits.
    """
    return quantize(dequantize(accumulated, x_scale, weight_scale), output)


def int8_sums(x: Float, x_quantization: Quantization, weight_scale: Float) -> Int32:
    """The sums of the whole int8 layer for real inputs: float32 [batch, 6] -> int32 [batch, 4]."""
    return accumulate(
        quantize(x, x_quantization),
        x_quantization.zero_point,
        quantize_weight(WEIGHT, weight_scale),
        quantize_bias(BIAS, x_quantization.scale, weight_scale),
    )
