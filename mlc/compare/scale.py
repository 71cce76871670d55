"""How large a value is: what its error is divided by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mlc.types import Array

ZERO_SCALE = 1e-4
"""What stands for the rms of an output that is zero everywhere: rounding noise of values near one is 1e-7."""

SMALLEST_SCALE = 1e-30
"""Below this an rms is taken as zero: squares of smaller float32 values vanish."""

MASKED = 1e4
"""No mask is smaller than this."""

GAP = 1e3
"""So many times larger than everything else is a mask."""

ALIKE = 0.99
"""The smallest element of a mask over its largest: scores that a mask was added to hardly move it."""

_CHUNK = 1 << 20
"""Elements that are widened to float64 at once."""


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Whether a dtype is a float or complex one, those of ml_dtypes included."""
    return dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float"))


def mask_level(array: Array) -> float:
    """Return the magnitude from which elements are a mask's, or infinity where there is no mask.

    A mask is two or more elements of one sign and almost one size, beside others ``GAP`` times smaller: -1e9 where
    nothing is to be looked at. Such elements would hide whatever happens to the others in an rms.
    """
    least = largest = 0.0
    for chunk in chunks(array):
        finite = chunk[np.isfinite(chunk)]
        least, largest = min(least, float(finite.min(initial=0.0))), max(largest, float(finite.max(initial=0.0)))
    size, sign = max(-least, largest), -1.0 if -least > largest else 1.0
    if size < MASKED:
        return math.inf
    level, count, others, rest = ALIKE * size, 0, 0, 0.0
    for chunk in chunks(array):
        finite = chunk[np.isfinite(chunk)]
        inside = sign * finite >= level
        count, others = count + int(inside.sum()), others + int((~inside).sum())
        rest = max(rest, float(np.abs(finite[~inside]).max(initial=0.0)))
    return level if count > 1 and others and rest * GAP <= size else math.inf


def rms(array: Array, below: float = math.inf) -> float:
    """Return the root mean square in float64 of the finite elements smaller than ``below``; 0 for none."""
    total, count = 0.0, 0
    for chunk in chunks(array):
        finite = chunk[np.isfinite(chunk) & (np.abs(chunk) < below)]
        total += float(np.dot(finite, finite))
        count += finite.size
    return math.sqrt(total / count) if count else 0.0


def scale_of(array: Array) -> float:
    """Return what an error of a value is divided by: its rms, a mask left out, or ``ZERO_SCALE`` where that is zero."""
    size = rms(array, mask_level(array))
    return size if size > SMALLEST_SCALE else ZERO_SCALE


def chunks(array: Array) -> Iterator[Array]:
    """Yield the elements in float64, a million at a time; complex ones as pairs."""
    flat = array.reshape(-1)
    if flat.dtype.kind == "c":
        flat = np.stack([flat.real, flat.imag], axis=-1).reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].astype(np.float64)
