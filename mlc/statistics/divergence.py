"""The range whose 8-bit codes keep most of a value's distribution, by the Kullback-Leibler divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlc.statistics.clipping import LEVELS, Cost, Density, density_of, grids, search

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOOR = 1e-9
"""What stands for a probability of 0, of which the divergence would be infinite."""


def least_divergence(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the range inside ``low..high``, widened to hold 0, whose u8 codes diverge least from the distribution.

    Migacz, "8-bit inference with TensorRT" (GTC 2017), compares in bins of one width; these grow with the number, so
    the codes' intervals are laid over them and share their contents with the parts of bins inside, by width. Bins are
    fine where an outlier widens the intervals, so that it is seen what is lost there. Zeros have a code of their own in
    any range and are not compared; with nothing else the range stays.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    density = density_of(counts, low, high)
    density.counts[density.centre] = 0
    return search(divergences, density, low, high) if density.counts.any() else (low, high)


def divergences(density: Density) -> Cost:
    """Return what gives the divergences of ranges, in nats.

    P is the distribution inside the range, with what lies outside at its ends; Q has the contents of each interval
    spread evenly over the bins in it that are not empty. Q is not scaled up to 1 for what lies outside: that would make
    one bin with everything beyond it the same in both, and of few elements such a bin is soon found. So the divergence
    is never below ``log(1 / inside)``, ``inside`` being the share that is not cut off.
    """
    mass = np.concatenate([[0.0], np.cumsum(density.counts)])
    width = np.concatenate([[0.0], np.cumsum(density.widths * (density.counts > 0))])

    def divergence(step: float, first: float) -> float:
        intervals = (first - 0.5 + np.arange(LEVELS + 2)) * step
        reached, wide = (np.interp(intervals, density.edges, cumulated) for cumulated in (mass, width))
        inside = np.diff(np.clip(mass, reached[0], reached[-1]))
        coded = np.diff(np.interp(width, wide, reached))
        if not inside.any():
            return np.inf
        whole = inside.copy()
        lowest, highest = np.clip(np.searchsorted(density.edges, intervals[[0, -1]]) - 1, 0, len(whole) - 1)
        whole[lowest] += reached[0]
        whole[highest] += mass[-1] - reached[-1]
        filled = whole > 0
        expected, actual = whole[filled] / mass[-1], np.maximum(coded[filled] / mass[-1], FLOOR)
        return float(expected @ np.log(expected / actual))

    return lambda lows, highs: np.array([divergence(*grid) for grid in zip(*grids(lows, highs), strict=True)])
