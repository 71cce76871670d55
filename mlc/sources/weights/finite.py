"""Whether a weight is a number everywhere."""

from __future__ import annotations

import numpy as np


def not_finite(array: np.ndarray, *, may_mask: bool) -> str:
    """Return what is not finite in an array and where it first is, or nothing.

    ``may_mask`` allows infinities in what is evidently a mask: every finite element has one value.
    """
    if array.dtype.kind != "f":
        array = array.astype(np.float32)
    finite = np.isfinite(array)
    if finite.all():
        return ""
    nan = np.isnan(array)
    if not nan.any() and may_mask:
        rest = array[finite]
        if rest.size == 0 or bool((rest == rest.flat[0]).all()):
            return ""
    wrong = nan if nan.any() else ~finite
    where = [int(index) for index in np.argwhere(wrong)[0]]
    return f"{'NaN' if nan.any() else 'Inf'} in {int(wrong.sum())} of {array.size} elements, first at {where}"
