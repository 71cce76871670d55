"""Masks: huge negative constants beside which every other element of a value would become one 8-bit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlc.statistics.histograms import HALF, edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 500.0
"""The smallest number that is taken for that of a mask: -1000 and an activation is one."""

APART = 64
"""So many times the largest other element: of the 255 steps of 8 bits all others would have four, some 10 dB."""

SHARE = 0.001
"""The least share of the elements that are a mask's; what is rarer is an outlier."""


def is_masked(counts: NDArray[np.int64]) -> bool:
    """Whether the lowest elements of a histogram are those of a mask, or of sums of masks.

    They are all negative, at least 500, 64 times larger than all others, and no fewer than one of 1000.
    """
    either = counts[:HALF] + counts[HALF:]
    filled = np.flatnonzero(either)
    if len(filled) < 2:  # noqa: PLR2004 - a gap lies between two
        return False
    upward = edges()[HALF:]
    below, above = filled[:-1], filled[1:]
    gaps = (upward[above + 1] > LEAST) & (upward[above] >= APART * upward[below])
    if not gaps.any():
        return False
    first = above[np.argmax(gaps)]
    return not counts[first:HALF].any() and bool(either[first:].sum() >= SHARE * either.sum())
