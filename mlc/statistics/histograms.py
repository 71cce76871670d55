"""Histograms over the upper 15 bits of float32: no range is needed, and two of them merge by addition."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mlc.types import Array

BINS = 1 << 15
"""A histogram counts by the upper 15 bits of float32: sign, exponent and 6 bits of mantissa."""

HALF = BINS // 2
"""The first half are the positive numbers from 0 up, the second the negative ones from 0 down."""

INFINITE = 0x7F80 >> 1
"""The bin of Inf, behind which there are only those of NaN."""

BLOCK = 1 << 18
"""Elements counted at a time: the indices of one block stay in the cache."""

COUNTED = 1 << 16
"""Elements of one sample that are counted at least, where it has as many."""


def histogram(array: Array) -> NDArray[np.int64]:
    """Count float32 elements by the upper 15 bits of their pattern: int64 [32768]."""
    bits = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)
    counts = np.zeros(BINS, np.int64)
    for start in range(0, bits.size, BLOCK):
        counts += np.bincount((bits[start : start + BLOCK] >> 17).astype(np.intp), minlength=BINS)
    return counts


def counted(array: Array, samples: int) -> Array:
    """Return the elements of a batch that a histogram counts: every so many of each sample, the same in any batch.

    The step depends on the size of a sample alone, so that two halves of the data count what the whole does, and it has
    no divisor in common with that size, so that it meets every column. A sample may have several rows of axis 0, as
    windows and heads do that are put side by side. Where axis 0 does not run over the samples, how data is cut into
    batches decides which elements of a large array are counted.
    """
    rows = array.reshape(samples, -1) if array.ndim and len(array) % samples == 0 else array.reshape(1, -1)
    size = rows.shape[1]
    step = max(1, size // COUNTED)
    while math.gcd(step, size) > 1:
        step -= 1
    return rows[:, ::step]


@cache
def edges() -> NDArray[np.float64]:
    """Return the edges of all bins from the lowest number to the highest, float64 [32769]; the last ones are infinite.

    Bin ``i`` of ``ascending`` lies between edges ``i`` and ``i + 1``; the two next to 0 meet there.
    """
    finite = np.arange(INFINITE, dtype=np.uint32) << 17
    upward = np.full(HALF + 1, np.inf)
    upward[:INFINITE] = finite.view(np.float32)
    return np.concatenate([-upward[:0:-1], upward])


def ascending(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the counts from the lowest numbers to the highest."""
    return np.concatenate([counts[: HALF - 1 : -1], counts[:HALF]])


def quantile(counts: NDArray[np.int64], share: float) -> float:
    """Return the number below which ``share`` of the elements lie, interpolated inside its bin."""
    ordered = ascending(counts)
    cumulated = np.cumsum(ordered)
    rank = share * cumulated[-1]
    place = min(int(np.searchsorted(cumulated, rank)), BINS - 1)
    inside = (rank - (cumulated[place] - ordered[place])) / ordered[place]
    start, end = edges()[place : place + 2]
    return float(start + inside * (end - start))
