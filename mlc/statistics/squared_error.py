"""The range whose 8-bit codes have the least expected squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlc.statistics.clipping import LEVELS, Cost, Density, Float, density_of, grids, search

if TYPE_CHECKING:
    from numpy.typing import NDArray


def least_squared_error(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the range inside ``low..high``, widened to hold 0, whose u8 codes have the least expected squared error.

    The criterion of Banner et al., "Post training 4-bit quantization of convolutional networks" (2019), section 3, and
    Choukroun et al., "Low-bit quantization of neural networks for efficient inference" (2019), with the measured
    histogram in the place of a normal or Laplace density.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    return search(squared_errors, density_of(counts, low, high), low, high)


def squared_errors(density: Density) -> Cost:
    """Return what gives the expected squared error of ranges, summed over all elements.

    In steps, a number ``u`` has the code ``c = clip(rint(u), first, last)``, and ``c / 12 + (u - c)**3 / 3`` is an
    integral of ``(u - c)**2``: the mean of a bin is exact for a density that is constant in it.
    """
    heights = density.counts / np.diff(density.edges)

    def cost(lows: Float, highs: Float) -> Float:
        steps, first = grids(lows, highs)
        numbers = density.edges / steps[:, np.newaxis]
        codes = np.clip(np.rint(numbers), first[:, np.newaxis], first[:, np.newaxis] + LEVELS)
        away = numbers - codes
        errors: Float = (np.diff(codes / 12 + away * away * away / 3, axis=1) @ heights) * steps**3
        return errors

    return cost
