"""One observer for each value: what it has seen so far, in memory that does not grow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mlc.errors import DataError, UsageError
from mlc.statistics.by_axis import CHANNELS, COLUMNS, ByAxis
from mlc.statistics.divergence import least_divergence
from mlc.statistics.histograms import BINS, counted, histogram, quantile
from mlc.statistics.masks import is_masked
from mlc.statistics.moments import Moments
from mlc.statistics.squared_error import least_squared_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlc.types import Array

AXES = {"channel-range": CHANNELS, "channel-mean": CHANNELS, "column-range": COLUMNS, "column-mean": COLUMNS}
"""The axis along which a kind of statistic is kept."""

EXTREMES = {"range", "histogram", "channel-range", "column-range"}
"""The kinds that add nothing up, which an infinity does not spoil."""

KINDS = ("range", "histogram", *AXES, "moments")

WHOLE = 100

NO_SAMPLE = -1


@dataclass
class Observer:
    """What is known of one value; ``counts`` are None, and ``axes`` and ``moments`` empty, where nobody asked for them.

    ``counted`` of the ``elements`` are in ``counts``. ``low_sample`` is the first sample that holds the minimum, and
    ``finite_low`` the lowest number but -Inf. An ``inner`` value may be Inf or NaN where its range alone is wanted,
    which is infinite then: a model may guard it.
    """

    low: float = np.inf
    high: float = -np.inf
    elements: int = 0
    low_sample: int = NO_SAMPLE
    finite_low: float = np.inf
    counts: NDArray[np.int64] | None = None
    axes: dict[str, ByAxis] = field(default_factory=dict)
    moments: Moments = field(default_factory=Moments)
    kinds: set[str] = field(default_factory=lambda: {"range"})
    inner: bool = False

    def want(self, kind: str) -> None:
        """Collect ``range`` (always) or another of KINDS too. Raises UsageError for what there is not."""
        if kind not in KINDS:
            raise UsageError(f"no statistic is called {kind!r}", f"there are: {', '.join(KINDS)}")
        self.kinds.add(kind)
        if kind == "histogram" and self.counts is None:
            self.counts = np.zeros(BINS, np.int64)

    def add(self, array: Array, name: str, indexes: Array) -> None:
        """Take in one batch; ``indexes`` are the places of its samples.

        Raises DataError for a NaN or Inf in it that no model may guard. A mask of -Inf has extremes and a histogram all
        the same, of which ``mask`` tells, but no sums.
        """
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(high) and np.isfinite(low)) and (high == np.inf or low != -np.inf or self._sums):
            if not self.inner or self.kinds != {"range"}:
                refuse_non_finite(array, name, indexes)
            low, high = float(array.min(where=~np.isnan(array), initial=np.inf)), np.inf
        if low < self.low:
            self.low, self.low_sample = low, _sample_of(array, int(array.argmin()), indexes)
        finite_low = low if low != -np.inf else float(array.min(where=np.isfinite(array), initial=np.inf))
        self.finite_low = min(self.finite_low, finite_low)
        self.high = max(self.high, high)
        self.elements += array.size
        if self.counts is not None:
            self.counts += histogram(counted(array, len(indexes)))
        for axis in sorted({AXES[kind] for kind in self.kinds & AXES.keys()}):
            part = ByAxis.of(array, axis)
            self.axes[axis] = self.axes[axis].merged(part, name) if axis in self.axes else part
        if "moments" in self.kinds:
            self.moments.add(array)

    @property
    def _sums(self) -> bool:
        return not self.kinds <= EXTREMES

    @property
    def counted(self) -> int:
        """How many of the elements are in the histogram."""
        return 0 if self.counts is None else int(self.counts.sum())

    def holds(self, kind: str) -> bool:
        """Whether a kind of statistic was collected."""
        if kind == "histogram":
            return self.counts is not None
        return kind == "range" or kind in self.kinds or AXES.get(kind) in self.axes

    def merged(self, other: Observer, name: str) -> Observer:
        """Return what one observer of both parts of the data would know; sums differ by their rounding alone."""
        first = min(self, other, key=lambda part: (part.low, part.low_sample))
        both = Observer(
            first.low,
            max(self.high, other.high),
            self.elements + other.elements,
            first.low_sample,
            min(self.finite_low, other.finite_low),
            moments=self.moments.merged(other.moments),
            kinds=self.kinds | other.kinds,
            axes=self.axes | other.axes,
        )
        if self.counts is not None and other.counts is not None:
            both.counts = self.counts + other.counts
        for axis in self.axes.keys() & other.axes.keys():
            both.axes[axis] = self.axes[axis].merged(other.axes[axis], f"the value {name}")
        return both

    def beside(self, other: Observer) -> Observer:
        """Return what both know, of which each has seen the same data: values that are computed alike."""
        return replace(
            self,
            counts=other.counts if self.counts is None else self.counts,
            axes=other.axes | self.axes,
            moments=self.moments if "moments" in self.kinds else other.moments,
            kinds=self.kinds | other.kinds,
        )

    def range(self) -> tuple[float, float]:
        """Return the exact extremes; a value that never had an element has 0..0."""
        return (self.low, self.high) if self.elements else (0.0, 0.0)

    def finite_range(self) -> tuple[float, float]:
        """Return the exact extremes of all numbers but -Inf, which masks; where there are no others, 0..0."""
        return (self.finite_low, self.high) if self.finite_low <= self.high else (0.0, 0.0)

    def mask(self) -> tuple[float, int] | None:
        """Return the lowest number and the first sample that holds it, where it is that of a mask."""
        if not self.elements or not (self.low == -np.inf or (self.counts is not None and is_masked(self.counts))):
            return None
        return self.low, self.low_sample

    def percentile(self, percent: float) -> tuple[float, float]:
        """Return the range that holds ``percent`` of the counted elements, within 1 %.

        It is cut equally at both ends; where no element is below 0, at the upper end only (a Relu's zeros are no
        outliers), and likewise where none is above.
        """
        low, high = self.range()
        counts = self._histogram()
        if percent >= WHOLE or not self._can_be_cut():
            return low, high
        outside = (WHOLE - percent) / WHOLE
        below, above = (0.0, outside) if low >= 0 else (outside, 0.0) if high <= 0 else (outside / 2, outside / 2)
        cut = quantile(counts, below) if below else low, quantile(counts, 1 - above) if above else high
        return self._inside(*cut)

    def mse(self) -> tuple[float, float]:
        """Return the range whose 8-bit codes have the least expected squared error."""
        counts = self._histogram()
        return self._inside(*least_squared_error(counts, *self.range())) if self._can_be_cut() else self.range()

    def entropy(self) -> tuple[float, float]:
        """Return the range whose 8-bit codes diverge least from the distribution."""
        counts = self._histogram()
        return self._inside(*least_divergence(counts, *self.range())) if self._can_be_cut() else self.range()

    def _histogram(self) -> NDArray[np.int64]:
        if self.counts is None:
            raise KeyError("no histogram was collected")
        return self.counts

    def _can_be_cut(self) -> bool:
        """Whether there is a range that is finite and more than 0."""
        low, high = self.range()
        return math.isfinite(low) and math.isfinite(high) and (low < 0 or high > 0)

    def _inside(self, low: float, high: float) -> tuple[float, float]:
        """Return a range that is never wider than the exact extremes."""
        return float(np.clip(low, self.low, self.high)), float(np.clip(high, self.low, self.high))


def _sample_of(array: Array, place: int, indexes: Array) -> int:
    """Return the index of the sample that has an element; where axis 0 does not run over them, of the first."""
    runs = array.ndim and len(array) == len(indexes)
    return int(indexes[place // (array.size // len(array))] if runs else indexes[0])


def refuse_non_finite(array: Array, name: str, indexes: Array) -> None:
    """Raise DataError where an array has a NaN or Inf, with the place of the first sample that has one.

    Where axis 0 does not run over the samples, the batch is all that can be named.
    """
    finite = np.isfinite(array)
    if finite.all():
        return
    found = "NaN" if np.isnan(array).any() else "Inf"
    where = f"one of the samples {indexes[0]} to {indexes[-1]}"
    if array.ndim and len(array) == len(indexes):
        where = f"sample {indexes[np.argmin(finite.reshape(len(array), -1).all(axis=1))]}"
    raise DataError(
        f"{name} holds {found} for {where} of the calibration data",
        "remove the sample, or look at what the model computes there",
    )
