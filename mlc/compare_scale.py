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

_CHUNK = 1 << 20
"""Elements that are widened to float64 at once."""


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Whether a dtype is a float or complex one, those of ml_dtypes included."""
    return dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float"))


def rms(array: Array) -> float:
    """Return the root mean square of the finite elements in float64; 0 for none."""
    total, count = 0.0, 0
    for chunk in chunks(array):
        finite = chunk[np.isfinite(chunk)]
        total += float(np.dot(finite, finite))
        count += finite.size
    return math.sqrt(total / count) if count else 0.0


def scale_of(array: Array) -> float:
    """Return what an error of a value is divided by: its rms, or ``ZERO_SCALE`` where it is zero everywhere."""
    size = rms(array)
    return size if size > SMALLEST_SCALE else ZERO_SCALE


def chunks(array: Array) -> Iterator[Array]:
    """Yield the elements in float64, a million at a time; complex ones as pairs."""
    flat = array.reshape(-1)
    if flat.dtype.kind == "c":
        flat = np.stack([flat.real, flat.imag], axis=-1).reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].astype(np.float64)
