"""Intervals by resampling what was measured; vectorised, seeded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mlc.types import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float: TypeAlias = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
RESAMPLES_OF_SAMPLES = 2_000
PIECE = 4_000_000
"""Numbers that are drawn at a time."""


def expanded_interval(value: float, draws: Float, count: int) -> Interval:
    """Return the percentile interval of bootstrap draws, widened for the smallness of ``count`` independent units.

    Expanded percentiles after Hesterberg, What Teachers Should Know About the Bootstrap (2015): the normal quantile is
    replaced by Student's with ``count`` - 1 degrees of freedom times sqrt(count / (count - 1)). With five processes a
    plain percentile interval would be a third too narrow. One unit alone has the range of its draws.
    """
    if count < 2:  # noqa: PLR2004
        return Interval(value, float(np.min(draws)), float(np.max(draws)))
    reach = math.sqrt(count / (count - 1)) * student(count - 1)
    ordered = np.sort(draws)  # no percentile between two draws: infinite ones cannot be interpolated
    outside = int(NormalDist().cdf(-reach) * len(draws))
    return Interval(value, min(float(ordered[outside]), value), max(float(ordered[-1 - outside]), value))


def student(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's distribution, by the Cornish-Fisher expansion (Hill 1970)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    if freedom == 1:
        return math.tan(math.pi * CONFIDENCE / 2)
    if freedom == 2:  # noqa: PLR2004
        return CONFIDENCE * math.sqrt(2 / (1 - CONFIDENCE**2))
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def ratio_interval(processes: Sequence[Float], seed: int = 0) -> Interval:
    """Return the ratio over all rounds with its interval: resampled over processes first, over their rounds second.

    The figure is the geometric mean over processes of the median over a process's rounds.
    """
    logs = [np.log(np.asarray(ratios, np.float64)) for ratios in processes]
    value = float(np.mean([np.median(rounds) for rounds in logs]))
    lengths = tuple(len(rounds) for rounds in logs)
    padded = np.stack([np.pad(one, (0, max(lengths) - len(one))) for one in logs])
    draws = _medians(padded.ravel()[_drawn(lengths, seed)]).mean(axis=1)
    interval = expanded_interval(value, draws, len(logs))
    return Interval(*(math.exp(end) for end in (interval.value, interval.low, interval.high)))


@lru_cache(maxsize=1)
def _drawn(lengths: tuple[int, ...], seed: int) -> NDArray[np.intp]:
    """Return where the rounds of each draw are among all, padded to one length: [draws, processes, rounds].

    Kept for the next ratio: those of one set are of as many rounds.
    """
    rng, processes = np.random.default_rng(seed), len(lengths)
    drawn = rng.integers(0, processes, (RESAMPLES, processes))[:, :, np.newaxis]
    parts = rng.random((RESAMPLES, processes, min(lengths)))
    places: NDArray[np.intp] = drawn * max(lengths) + (parts * np.array(lengths)[drawn]).astype(np.intp)
    return places


def _medians(values: Float) -> Float:
    """Return the medians along the last axis, by sorting: numpy sorts short rows faster than it finds their middle."""
    ordered, (half, odd) = np.sort(values), divmod(values.shape[-1], 2)
    medians: Float = ordered[..., half - 1 + odd : half + 1].mean(axis=-1)
    return medians


def mean_draws(columns: Sequence[tuple[Float, Float]], seed: int = 0) -> Float:
    """Resample samples and return the weighted mean of each column in each draw: [columns, draws].

    A column is scores and weights, one a sample; all columns are resampled alike, so that they stay paired.
    """
    count = len(columns[0][0])
    rng = np.random.default_rng(seed)
    products = np.stack([scores * weights for scores, weights in columns])
    weights = np.stack([weights for _, weights in columns])
    piece = max(1, PIECE // count)
    parts = []
    for start in range(0, RESAMPLES_OF_SAMPLES, piece):
        drawn = rng.integers(0, count, (min(piece, RESAMPLES_OF_SAMPLES - start), count))
        parts.append(np.stack([_weighted(products[c], weights[c], drawn) for c in range(len(columns))]))
    return np.concatenate(parts, axis=1)


def _weighted(products: Float, weights: Float, drawn: NDArray[np.int64]) -> Float:
    total = weights[drawn].sum(axis=1)
    means: Float = np.divide(products[drawn].sum(axis=1), total, out=np.zeros(len(drawn)), where=total > 0)
    return means


def weighted_mean(scores: Float, weights: Float) -> float:
    """Return the weighted mean; weights that are all zero are refused by the caller."""
    return float((scores * weights).sum() / weights.sum())
