"""Extremes and sums along one axis: what each channel, or each column, has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlc.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.types import Array

CHANNELS, COLUMNS = "channels", "columns"
"""Axis 1, along which a convolution has its channels, and the last one, along which a matrix product adds."""


@dataclass(frozen=True)
class ByAxis:
    """Exact extremes and the sum of every index of an axis, over ``elements`` elements of each.

    ``low`` and ``high`` are float32, ``total`` is float64, all of the size of the axis.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    total: NDArray[np.float64]
    elements: int

    @classmethod
    def of(cls, array: Array, axis: str) -> ByAxis:
        """Reduce one array that has elements; one without such an axis has one channel, and as many columns as it has.

        A value without axes has one of each.
        """
        array = np.atleast_1d(array)
        if axis == CHANNELS and array.ndim == 1:
            array = array[:, np.newaxis]
        kept = 1 if axis == CHANNELS else array.ndim - 1
        rest = tuple(place for place in range(array.ndim) if place != kept)
        low, high = (reduced.astype(np.float32) for reduced in (array.min(axis=rest), array.max(axis=rest)))
        return cls(low, high, array.sum(axis=rest, dtype=np.float64), array.size // array.shape[kept])

    def merged(self, other: ByAxis, name: str) -> ByAxis:
        """Return what is known of both parts of the data.

        Raises DataError, with the ``name`` of the value, where the axis differs in size.
        """
        sizes = sorted({len(self.low), len(other.low)})
        if len(sizes) > 1:
            raise DataError(
                f"{name} has an axis of {sizes[0]} in some samples and of {sizes[1]} in others",
                "what is kept for each of its indices needs samples of one size there",
            )
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return replace(
            self, low=low, high=high, total=self.total + other.total, elements=self.elements + other.elements
        )

    def mean(self) -> NDArray[np.float32]:
        """Return the mean of each index of the axis."""
        mean: NDArray[np.float32] = (self.total / self.elements).astype(np.float32)
        return mean
