"""Second moments of what a product reads: which inputs are large, and which go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.types import Array


@dataclass
class Moments:
    """The sum of ``x.T @ x`` over all rows ``x`` of a value, its last axis as columns, and how many rows there were.

    ``total`` is float32 [columns, columns]: its size does not grow with the data, but with the square of the width.
    """

    total: NDArray[np.float32] | None = None
    rows: int = 0

    def add(self, array: Array) -> None:
        """Take in one array whose last axis is that of the columns."""
        columns = np.ascontiguousarray(array, np.float32).reshape(-1, array.shape[-1])
        part = columns.T @ columns
        self.total = part if self.total is None else self.total + part
        self.rows += len(columns)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both parts of the data together."""
        parts = [part.total for part in (self, other) if part.total is not None]
        return Moments(np.sum(parts, axis=0) if parts else None, self.rows + other.rows)

    def mean(self) -> NDArray[np.float32]:
        """Return the mean of ``x.T @ x``, float32 [columns, columns]. Raises KeyError where there was no row."""
        if self.total is None:
            raise KeyError("no row was seen")
        mean: NDArray[np.float32] = self.total / np.float32(self.rows)
        return mean
