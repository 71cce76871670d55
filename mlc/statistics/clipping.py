"""Where to cut the range of a value: the search over ranges that a histogram makes cheap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlc.statistics.histograms import HALF, ascending, edges

Float = NDArray[np.float64]

Cost: TypeAlias = Callable[[Float, Float], Float]
"""What ranges cost, by their lower and upper ends, float64 [ranges]; each holds 0."""

LEVELS = 255
"""Steps of an unsigned 8-bit code."""

SMALL = 2.0**-20
"""Elements below this share of the largest are taken together: they are far below one step of any range tried."""

JOINED = 4
"""So many bins are taken as one to find about where a range ends."""

COARSE = 2.0 ** -np.linspace(0, 12, 17)
FINE = 2.0 ** np.linspace(-0.75, 0.75, 11)
"""Shares of an end that are tried over joined bins: 12 octaves, then in steps of 11 % around the best."""

FINEST = 2.0 ** np.linspace(-0.15, 0.15, 7)
"""Shares of about the best that are tried over all bins."""

MARGIN = 2.0**-20
"""What is added to the extremes, relative to them, so that a bin of one number is not empty."""


@dataclass(frozen=True)
class Density:
    """A histogram as a density that is constant inside each bin.

    ``edges`` are float64 [bins + 1], ``counts`` float64 [bins]; the bin ``centre`` holds 0 and what is next to it.
    ``widths`` float64 [bins] are those of whole bins, where the extremes leave a part of the first or last.
    """

    edges: Float
    counts: Float
    widths: Float
    centre: int

    def joined(self, times: int) -> Density:
        """Return the density over bins of which so many are taken as one, from the centre outwards."""
        below = np.arange(self.centre, 0, -times)[::-1]
        above = np.arange(self.centre + 1, len(self.counts), times)
        starts = np.unique(np.concatenate([[0], below, above]))
        counts, widths = np.add.reduceat(self.counts, starts), np.add.reduceat(self.widths, starts)
        return Density(self.edges[[*starts, -1]], counts, widths, int(np.searchsorted(starts, self.centre)))


def density_of(counts: NDArray[np.int64], low: float, high: float) -> Density:
    """Return the density of a histogram between its exact extremes, which are finite and not both 0."""
    every = np.clip(edges(), -LARGEST, LARGEST)
    tiny = max(-low, high) * SMALL
    inner = int(np.searchsorted(every[HALF:], tiny, side="right"))
    below, above = HALF - inner, HALF + inner
    ordered = ascending(counts).astype(np.float64)
    merged = np.concatenate([ordered[:below], [ordered[below:above].sum()], ordered[above:]])
    bounds = np.concatenate([every[: below + 1], every[above:]])
    filled = np.flatnonzero(merged)
    first, last = min(filled[0], below), max(filled[-1], below)
    bounds, merged = bounds[first : last + 2].copy(), merged[first : last + 1]
    widths = np.diff(bounds)
    bounds[0] = max(bounds[0], min(low - abs(low) * MARGIN, -tiny))
    bounds[-1] = min(bounds[-1], max(high + abs(high) * MARGIN, tiny))
    return Density(bounds, merged, widths, int(below - first))


LARGEST = float(np.finfo(np.float32).max) * (1 + 2 * MARGIN)
"""Where the last bin ends that holds finite numbers."""


def grids(lows: Float, highs: Float) -> tuple[Float, Float]:
    """Return the steps of ranges that hold 0, and their lowest codes as multiples of the steps, float64 [ranges].

    As QuantizeLinear has it: ``step = (high - low) / 255`` and ``zero_point = rint(-low / step)``.
    """
    steps = (highs - lows) / LEVELS
    return steps, -np.rint(-lows / steps)


def search(costs: Callable[[Density], Cost], density: Density, low: float, high: float) -> tuple[float, float]:
    """Return the range inside ``low..high`` that costs least; it holds 0, and an end that is 0 stays.

    It begins with the best of both ends moved together and of each moved alone, and then moves one end after the other.
    Where it is found first is decided over joined bins.
    """
    ends = np.array([low, high])
    roughly, closely = costs(density.joined(JOINED)), costs(density)
    both, one, other = [True, True], [False, True], [True, False]

    def least(cost: Cost, *sets: Float) -> Float:
        tried = np.clip(np.vstack(sets), low, high)
        found: Float = tried[np.argmin(cost(tried[:, 0], tried[:, 1]))]
        return found

    def moved(best: Float, which: list[bool], start: Float, shares: Float) -> Float:
        return np.where(which, start * shares[:, np.newaxis], best)

    alone = [both, one, other] if low and high else [both]
    best = least(roughly, *(moved(ends, which, ends, COARSE) for which in alone))
    best = least(roughly, best, moved(best, both, best, FINE))
    for which in (one, other) if low and high else ():
        best = least(roughly, best, moved(best, which, ends, COARSE))
        best = least(roughly, best, moved(best, which, best, FINE))
    for which in alone:
        best = least(closely, ends, best, moved(best, which, best, FINEST))
    return float(best[0]), float(best[1])
