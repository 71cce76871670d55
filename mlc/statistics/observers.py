"""One observer for each value: what it has seen so far, in memory that does not grow."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlc.errors import DataError, UsageError

if TYPE_CHECKING:
    from mlc.types import Array

BINS = 1 << 15
"""A histogram counts by the upper 15 bits of float32: sign, exponent and 6 bits of mantissa. No range is needed."""

WHOLE = 100

BLOCK = 1 << 18
"""Elements counted at a time: the indices of one block stay in the cache."""


def histogram(array: Array) -> NDArray[np.int64]:
    """Count float32 elements by the upper 15 bits of their pattern: int64 [32768]."""
    bits = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32)
    counts = np.zeros(BINS, np.int64)
    for start in range(0, bits.size, BLOCK):
        counts += np.bincount((bits[start : start + BLOCK] >> 17).astype(np.intp), minlength=BINS)
    return counts


@dataclass
class Observer:
    """What is known of one value; ``counts`` and the channel arrays are None where nobody asked for them."""

    low: float = np.inf
    high: float = -np.inf
    elements: int = 0
    counts: NDArray[np.int64] | None = None
    channel_low: NDArray[np.float32] | None = None
    channel_high: NDArray[np.float32] | None = None
    channel_sum: NDArray[np.float64] | None = None
    channel_elements: int = 0
    kinds: set[str] = field(default_factory=lambda: {"range"})

    def want(self, kind: str) -> None:
        """Collect ``range`` (always), ``histogram``, ``channel-range`` or ``channel-mean`` too."""
        if kind not in ("range", "histogram", "channel-range", "channel-mean"):
            raise UsageError(f"no statistic is called {kind!r}", "range, histogram, channel-range or channel-mean")
        self.kinds.add(kind)
        if kind == "histogram" and self.counts is None:
            self.counts = np.zeros(BINS, np.int64)

    def add(self, array: Array, name: str, indexes: Array) -> None:
        """Take in one batch. Raises DataError for a NaN or Inf in it; ``indexes`` are the places of its samples."""
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            refuse_non_finite(array, name, indexes)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.elements += array.size
        if self.counts is not None:
            self.counts += histogram(array)
        if self.kinds & {"channel-range", "channel-mean"}:
            self._add_channels(array)

    def _add_channels(self, array: Array) -> None:
        by_channel = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1) if array.ndim > 1 else array.reshape(1, -1)
        low, high = by_channel.min(axis=1), by_channel.max(axis=1)
        total = by_channel.sum(axis=1, dtype=np.float64)
        self._merge_channels(low, high, total, by_channel.shape[1])

    def _merge_channels(self, low: Array, high: Array, total: Array, elements: int) -> None:
        if self.channel_low is None or self.channel_high is None or self.channel_sum is None:
            self.channel_low, self.channel_high, self.channel_sum = low, high, total
        else:
            self.channel_low = np.minimum(self.channel_low, low)
            self.channel_high = np.maximum(self.channel_high, high)
            self.channel_sum = self.channel_sum + total
        self.channel_elements += elements

    def merged(self, other: Observer) -> Observer:
        """Return what one observer of both parts of the data would know."""
        both = Observer(
            min(self.low, other.low),
            max(self.high, other.high),
            self.elements + other.elements,
            kinds=self.kinds | other.kinds,
        )
        if self.counts is not None and other.counts is not None:
            both.counts = self.counts + other.counts
        for part in (self, other):
            if part.channel_low is not None and part.channel_high is not None and part.channel_sum is not None:
                both._merge_channels(part.channel_low, part.channel_high, part.channel_sum, part.channel_elements)
        return both

    def range(self) -> tuple[float, float]:
        """Return the exact extremes; a value that never had an element has 0..0."""
        return (self.low, self.high) if self.elements else (0.0, 0.0)

    def percentile(self, percent: float) -> tuple[float, float]:
        """Return the range that holds ``percent`` of the elements, within 1 %.

        It is cut equally at both ends; where no element is below 0, at the upper end only (a Relu's zeros are no
        outliers), and likewise where none is above.
        """
        low, high = self.range()
        if self.counts is None:
            raise KeyError("no histogram was collected")
        if not self.elements or percent >= WHOLE:
            return low, high
        outside = (WHOLE - percent) / WHOLE
        if low >= 0:
            return low, self._quantile(1 - outside)
        if high <= 0:
            return self._quantile(outside), high
        return self._quantile(outside / 2), self._quantile(1 - outside / 2)

    def _quantile(self, share: float) -> float:
        """Return the number below which ``share`` of the elements lie, interpolated inside its bin."""
        assert self.counts is not None
        order = np.concatenate([np.arange(BINS - 1, BINS // 2 - 1, -1), np.arange(BINS // 2)])
        cumulated = np.cumsum(self.counts[order])
        rank = share * cumulated[-1]
        place = int(np.searchsorted(cumulated, rank))
        pattern = int(order[min(place, BINS - 1)])
        inside = (rank - (cumulated[place] - self.counts[pattern])) / self.counts[pattern]
        near, far = (_number(bits) for bits in (pattern << 17, (pattern + 1 << 17) - 1))
        start, end = (near, far) if pattern < BINS // 2 else (far, near)
        return float(np.clip(start + inside * (end - start), self.low, self.high))


def _number(bits: int) -> float:
    return float(np.array(bits, np.uint32).view(np.float32))


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


class CollectedStatistics:
    """Statistics by value name; what a pass reads."""

    def __init__(self, observers: Mapping[str, Observer], samples: int = 0) -> None:
        self.observers = dict(observers)
        self.samples = samples

    def range(self, value: str) -> tuple[float, float]:
        """Return exact minimum and maximum over all samples."""
        return self.observers[value].range()

    def percentile(self, value: str, percent: float) -> tuple[float, float]:
        """Return the range that holds ``percent`` of the elements."""
        return self.observers[value].percentile(percent)

    def channel_range(self, value: str) -> tuple[Array, Array]:
        """Return exact minima and maxima per channel (axis 1), float32 [channels]."""
        observer = self.observers[value]
        if observer.channel_low is None or observer.channel_high is None:
            raise KeyError(f"no channel range of {value} was collected")
        return observer.channel_low, observer.channel_high

    def channel_mean(self, value: str) -> Array:
        """Return means per channel (axis 1), float32 [channels]."""
        observer = self.observers[value]
        if observer.channel_sum is None:
            raise KeyError(f"no channel mean of {value} was collected")
        return (observer.channel_sum / observer.channel_elements).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write everything as ``.npz``: the same statistics give the same bytes."""
        arrays: dict[str, Array] = {"samples": np.array(self.samples, np.int64)}
        for name, observer in self.observers.items():
            arrays[f"{name}:range"] = np.array([observer.low, observer.high], np.float64)
            arrays[f"{name}:elements"] = np.array([observer.elements, observer.channel_elements], np.int64)
            for key in ("counts", "channel_low", "channel_high", "channel_sum"):
                array = getattr(observer, key)
                if array is not None:
                    arrays[f"{name}:{key}"] = array
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> CollectedStatistics:
        """Read what ``save`` wrote. Raises DataError for a file that is not that."""
        observers: dict[str, Observer] = {}
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                samples = int(arrays["samples"])
                for key in arrays.files:
                    name, _, part = key.rpartition(":")
                    if name:
                        _restore(observers.setdefault(name, Observer()), part, arrays[key])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} holds no statistics", "collect them again") from error
        return cls(observers, samples)


def _restore(observer: Observer, part: str, array: Array) -> None:
    if part == "range":
        observer.low, observer.high = (float(value) for value in array)
    elif part == "elements":
        observer.elements, observer.channel_elements = (int(value) for value in array)
    else:
        setattr(observer, part, array)


def merge(first: CollectedStatistics, second: CollectedStatistics) -> CollectedStatistics:
    """Return the statistics of two parts of the data together; both hold the same values."""
    observers = {name: observer.merged(second.observers[name]) for name, observer in first.observers.items()}
    return CollectedStatistics(observers, first.samples + second.samples)
