"""Statistics by value name: what a pass reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mlc.statistics.by_axis import CHANNELS, COLUMNS, ByAxis
from mlc.statistics.observers import Observer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.types import Array

DIGEST = 16
"""Bytes of the digest of a sample."""


class CollectedStatistics:
    """Statistics by value name; what a pass reads.

    ``samples`` is their number, ``digests`` uint8 [samples, 16] tell which they were, where that is known.
    """

    def __init__(
        self, observers: Mapping[str, Observer], samples: int = 0, digests: NDArray[np.uint8] | None = None
    ) -> None:
        self.observers = dict(observers)
        self.samples = samples
        self.digests = np.zeros((0, DIGEST), np.uint8) if digests is None else digests

    def range(self, value: str) -> tuple[float, float]:
        """Return exact minimum and maximum over all samples."""
        return self.observers[value].range()

    def finite_range(self, value: str) -> tuple[float, float]:
        """Return exact minimum and maximum of all numbers but -Inf, which masks."""
        return self.observers[value].finite_range()

    def seen(self, value: str) -> bool:
        """Whether a value has had any element."""
        return self.observers[value].elements > 0

    def percentile(self, value: str, percent: float) -> tuple[float, float]:
        """Return the range that holds ``percent`` of the elements."""
        return self.observers[value].percentile(percent)

    def mse(self, value: str) -> tuple[float, float]:
        """Return the range whose 8-bit codes have the least expected squared error."""
        return self.observers[value].mse()

    def entropy(self, value: str) -> tuple[float, float]:
        """Return the range whose 8-bit codes diverge least from the distribution."""
        return self.observers[value].entropy()

    def mask(self, value: str) -> tuple[float, int] | None:
        """Return the number that masks, and the first sample that holds it, where a value holds a mask."""
        return self.observers[value].mask()

    def channel_range(self, value: str) -> tuple[Array, Array]:
        """Return exact minima and maxima per channel (axis 1), float32 [channels]."""
        found = self._along(value, CHANNELS)
        return found.low, found.high

    def channel_mean(self, value: str) -> Array:
        """Return means per channel (axis 1), float32 [channels]."""
        return self._along(value, CHANNELS).mean()

    def column_range(self, value: str) -> tuple[Array, Array]:
        """Return exact minima and maxima per column (the last axis), float32 [columns]."""
        found = self._along(value, COLUMNS)
        return found.low, found.high

    def rows(self, value: str) -> int:
        """Return how many elements each column (the last axis) has had."""
        return self._along(value, COLUMNS).elements

    def column_mean(self, value: str) -> Array:
        """Return means per column (the last axis), float32 [columns]."""
        return self._along(value, COLUMNS).mean()

    def moments(self, value: str) -> Array:
        """Return the mean of ``x.T @ x`` over all rows, float32 [columns, columns]."""
        return self.observers[value].moments.mean()

    def _along(self, value: str, axis: str) -> ByAxis:
        found = self.observers[value].axes.get(axis)
        if found is None:
            raise KeyError(f"nothing was collected for the {axis} of {value}")
        return found


def merge(first: CollectedStatistics, second: CollectedStatistics) -> CollectedStatistics:
    """Return the statistics of two parts of the data together; both hold the same values.

    Extremes and elements are exactly those of the whole, and so are counts where axis 0 runs over the samples; sums
    (means, moments) differ by their rounding.
    """
    observers = {name: observer.merged(second.observers[name], name) for name, observer in first.observers.items()}
    digests = np.concatenate([first.digests, second.digests])
    return CollectedStatistics(observers, first.samples + second.samples, digests)
