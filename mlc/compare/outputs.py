"""Are two models the same? The one place that knows tolerance, for export, passes and final files.

Float outputs are judged by their largest error over the rms of the expected value; of 16-bit floats an element may be
the next number, and what lies beyond it is the error. Integer and boolean outputs are judged exactly, unless
``decisions`` (see ``mlc.compare.decisions``) names the float values that decide them: then an element may differ where
the deciding value lies within the tolerance of its threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mlc.compare.flips import Decision, Flipped, Threshold, counted, unexcused
from mlc.compare.scale import ALIKE, ZERO_SCALE, chunks, is_float, mask_level, rms, scale_of
from mlc.types import Sizes

if TYPE_CHECKING:
    from mlc.types import Array, Arrays

__all__ = [
    "END_TOLERANCE", "EXPORT_TOLERANCE", "ZERO_SCALE", "Check", "Decision", "Difference", "Reference", "Threshold",
    "compare", "compare_one", "is_float", "powers", "ratio_db", "rms", "scale_of", "sqnr",
]  # fmt: skip

EXPORT_TOLERANCE = 1e-3
"""Largest error over the rms of a float output that an fp32 export may have."""

END_TOLERANCE = 0.1
"""The same where inputs hold one value throughout: a normalizer then divides rounding by next to nothing."""

STEPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""The distance of neighbouring numbers over their size, where it may be more than a tolerance.

A CPU computes them in float32, and where it rounds depends on which nodes lie side by side.
"""


@dataclass(frozen=True)
class Reference:
    """What the original answers: inputs and outputs by name at one size, computed once and kept.

    ``values`` says what the inputs hold, as in ``ids = 2000``, where that is an end of their declared ranges.
    """

    sizes: Sizes
    inputs: Arrays
    outputs: Arrays
    values: str = ""


@dataclass(frozen=True)
class Difference:
    """How one output differs: the largest error over the rms of the expected value, and why it does not hold, if so.

    ``broken`` is one that no tolerance is for: missing, of another dtype or shape, NaN or Inf where it should not be.
    """

    output: str
    error: float
    reason: str = ""
    broken: bool = False

    def __bool__(self) -> bool:
        """Whether the difference is more than is allowed."""
        return bool(self.reason)


@dataclass(frozen=True)
class Check:
    """One comparison with the original: which file or graph, at which sizes, and every output's difference.

    Float outputs are held to ``tolerance``, those of a quantized model to the ratio ``floor`` in dB instead.
    ``values`` is the reference's: at the ends of declared ranges other tolerances hold.
    """

    name: str
    sizes: Sizes
    tolerance: float
    differences: tuple[Difference, ...] = field(default_factory=tuple)
    floor: float | None = None
    values: str = ""

    @property
    def held(self) -> bool:
        """Whether no output differs more than is allowed."""
        return not any(self.differences)

    @property
    def error(self) -> float:
        """The largest error over the rms of all outputs."""
        return max((difference.error for difference in self.differences), default=0.0)


def compare(
    expected: Arrays,
    actual: Arrays,
    tolerance: float,
    *,
    decisions: Mapping[str, Decision] | None = None,
    exact: bool = False,
) -> tuple[Difference, ...]:
    """Compare every expected output with the actual one of the same name.

    ``exact`` asks for the same bits (any NaN equals any other). ``actual`` holds the deciding values too.
    """
    known = decisions or {}
    return tuple(
        compare_one(name, array, actual.get(name), tolerance, decision=known.get(name), values=actual, exact=exact)
        for name, array in expected.items()
    )


def compare_end(
    first: Reference,
    end: Reference,
    actual: Arrays,
    tolerance: float,
    *,
    decisions: Mapping[str, Decision] | None = None,
) -> tuple[Difference, ...]:
    """Compare at an end of the declared ranges: errors are over the rms there or at ``first``, whichever is larger.

    What is rounding noise there, since all inputs are alike, is none where they are not.
    """
    judged = []
    for difference in compare(end.outputs, actual, tolerance, decisions=decisions):
        usual = first.outputs.get(difference.output)
        if difference and math.isfinite(difference.error) and usual is not None and is_float(usual.dtype):
            error = difference.error * scale_of(end.outputs[difference.output]) / scale_of(usual)
            judged.append(Difference(difference.output, error) if error <= tolerance else difference)
        else:
            judged.append(difference)
    return tuple(judged)


def compare_one(
    name: str,
    expected: Array,
    actual: Array | None,
    tolerance: float,
    *,
    decision: Decision | None = None,
    values: Arrays | None = None,
    exact: bool = False,
) -> Difference:
    """Compare one output. An error that has no number (another shape, a flip) is infinite."""
    if actual is None:
        return Difference(name, math.inf, f"{name} is missing", broken=True)
    if expected.dtype != actual.dtype and not (_is_text(expected) and _is_text(actual)):
        return Difference(name, math.inf, f"{name} is {actual.dtype}, expected {expected.dtype}", broken=True)
    same_shape = expected.shape == actual.shape
    if exact and same_shape:
        return _same_bits(name, expected, actual)
    if same_shape and is_float(expected.dtype):
        return _float_difference(name, expected, actual, tolerance)
    if same_shape and (expected.size == 0 or bool(np.all(expected == actual))):
        return Difference(name, 0.0)
    reason = unexcused(Flipped(name, expected, actual), tolerance, decision, values or {})
    return Difference(name, math.inf if reason else 0.0, reason, broken=not same_shape)


def sqnr(expected: Array, actual: Array) -> float:
    """Return the signal to noise ratio in dB: infinite where equal, minus infinite for another shape or NaN and Inf."""
    if expected.shape != actual.shape:
        return -math.inf
    signal, noise = powers(expected, actual)
    return ratio_db(signal, noise)


def powers(expected: Array, actual: Array) -> tuple[float, float]:
    """Return the summed squares of the expected value and of the error, over the finite elements of the former.

    Elements of a mask do not count while they stay masked: beside them all else would be as nothing. Beside nothing but
    zeros an error below the smallest normal float32 is none.
    """
    signal, noise, level = 0.0, 0.0, mask_level(expected)
    for wanted, given in zip(chunks(expected), chunks(actual), strict=True):
        finite = np.isfinite(wanted)
        counted_in = finite & (np.abs(wanted) < level)
        signal += float(np.dot(wanted[counted_in], wanted[counted_in]))
        masked = finite & ~counted_in
        still = np.zeros_like(masked)
        still[masked] = np.abs(given[masked] / wanted[masked] - 1) <= 1 - ALIKE
        error = given[finite & ~still] - wanted[finite & ~still]
        noise += float(np.dot(error, error)) if np.isfinite(error).all() else math.inf
    least = float(np.finfo(np.float32).tiny) ** 2 * expected.size
    return signal, 0.0 if signal == 0 and noise < least else noise


def ratio_db(signal: float, noise: float) -> float:
    """Return a ratio of summed squares in dB."""
    if noise == 0:
        return math.inf
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)


def _is_text(array: Array) -> bool:
    return array.dtype.kind in "OSU"


def _same_bits(name: str, expected: Array, actual: Array) -> Difference:
    if _is_text(expected):
        same = np.asarray(expected == actual)
        return Difference(name, 0.0) if same.all() else Difference(name, math.inf, counted(name, ~same))
    left, right = (np.ascontiguousarray(array).reshape(-1) for array in (expected, actual))
    width = expected.dtype.itemsize
    differs = (left.view(np.uint8).reshape(-1, width) != right.view(np.uint8).reshape(-1, width)).any(axis=1)
    if is_float(expected.dtype):
        differs &= ~(np.isnan(left) & np.isnan(right))
    if not differs.any():
        return Difference(name, 0.0)
    if not is_float(expected.dtype):
        return Difference(name, math.inf, counted(name, differs))
    measured = _float_difference(name, expected, actual, math.inf)
    return Difference(name, measured.error, measured.reason or f"{counted(name, differs)} in bits")


def _float_difference(name: str, expected: Array, actual: Array, tolerance: float) -> Difference:
    largest = 0.0
    level, scale, step = mask_level(expected), scale_of(expected), STEPS.get(expected.dtype.name, 0.0)
    for wanted, given in zip(chunks(expected), chunks(actual), strict=True):
        finite = np.isfinite(wanted)
        if not (finite.all() and np.isfinite(given).all()):
            other = ~finite | ~np.isfinite(given)
            if not np.array_equal(wanted[other], given[other], equal_nan=True):
                reason = f"{name} has NaN or Inf at other positions than expected"
                return Difference(name, math.inf, reason, broken=True)
            wanted, given = wanted[finite], given[finite]  # noqa: PLW2901 - the rest is judged
        size = np.abs(given - wanted) - step * np.abs(wanted)
        if level < math.inf:
            masked = np.abs(wanted) >= level
            size[masked] *= scale / np.abs(wanted[masked])
        largest = max(largest, float(size.max(initial=0.0)))
    error = largest / scale
    if error > tolerance:
        return Difference(name, error, f"{name} differs by {error:.2g} of its rms, allowed is {tolerance:.2g}")
    return Difference(name, error)
