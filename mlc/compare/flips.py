"""Integers and booleans that differ: excused only where the float that decides them is near its threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlc.compare.scale import scale_of

if TYPE_CHECKING:
    from mlc.types import Array, Arrays


@dataclass(frozen=True)
class Threshold:
    """Where a float decides: ``left`` against ``right``, a value's name or a number, or every multiple of ``step``.

    ``offset`` moves the multiples: rounding decides at halves, truncation at whole numbers.
    """

    left: str
    right: str | float | None = None
    step: str | float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Decision:
    """The float values that decide an integer or boolean output.

    ``kind`` is ``elementwise`` (an element may flip where any threshold is near), ``index`` (indices along ``axis`` of
    the value ``ranked``: two of them may swap where their values are near) or ``positions`` (those, listed along
    ``axis``, of a mask that ``thresholds`` decide, so that their number may differ).
    """

    output: str
    kind: str
    thresholds: tuple[Threshold, ...] = ()
    ranked: str = ""
    axis: int = 0
    keepdims: bool = True

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values that have to be given beside the outputs."""
        names = [self.ranked] if self.ranked else []
        for threshold in self.thresholds:
            names += [part for part in (threshold.left, threshold.right, threshold.step) if isinstance(part, str)]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Flipped:
    """An integer or boolean output that is not what was expected."""

    name: str
    expected: Array
    actual: Array


def unexcused(output: Flipped, tolerance: float, decision: Decision | None, values: Arrays) -> str:
    """Return why an output may not differ as it does, or nothing where the floats that decide it excuse that."""
    same_shape = output.expected.shape == output.actual.shape
    if not same_shape and (decision is None or decision.kind != "positions"):
        return f"{output.name} has shape {list(output.actual.shape)}, expected {list(output.expected.shape)}"
    if decision is None or any(value not in values for value in decision.values):
        if not same_shape:
            return f"{output.name} has another number of positions than expected"
        return counted(output.name, np.asarray(output.expected != output.actual))
    if decision.kind == "index":
        far = _far_ranks(output, tolerance, decision, values)
    elif decision.kind == "positions":
        far = _far_positions(output, tolerance, decision, values)
    else:
        near = _near_to_shape(_near(decision.thresholds, tolerance, values), output.expected.shape)
        far = (output.expected != output.actual) & ~near
    if not far.any():
        return ""
    return f"{int(far.sum())} elements of {output.name} differ though what decides them is not near a threshold"


def counted(name: str, differs: Array) -> str:
    """Return how many elements differ, as a sentence."""
    return f"{int(differs.sum())} of {differs.size} elements of {name} differ"


def _near(thresholds: tuple[Threshold, ...], tolerance: float, values: Arrays) -> Array:
    """Return where any threshold is within the tolerance times the rms of what decides."""
    near: Array = np.zeros((), dtype=bool)
    for threshold in thresholds:
        left = values[threshold.left].astype(np.float64)
        reach = tolerance * scale_of(values[threshold.left])
        if threshold.right is None:
            step = values[threshold.step].astype(np.float64) if isinstance(threshold.step, str) else threshold.step
            scaled = left / step - threshold.offset
            distance = np.abs(scaled - np.round(scaled)) * np.abs(step)
        else:
            right = values[threshold.right] if isinstance(threshold.right, str) else threshold.right
            with np.errstate(invalid="ignore"):
                distance = np.abs(left - np.asarray(right, dtype=np.float64))
        near = near | (distance <= reach)
    return near


def _near_to_shape(near: Array, shape: tuple[int, ...]) -> Array:
    """Give a mask the shape of the output, by size (a reshaped one) or by broadcasting; else nothing is near."""
    if near.size == math.prod(shape):
        return near.reshape(shape)
    try:
        return np.broadcast_to(near, shape)
    except ValueError:
        return np.zeros(shape, dtype=bool)


def _far_ranks(output: Flipped, tolerance: float, decision: Decision, values: Arrays) -> Array:
    """Return where two indices differ whose ranked values are further apart than twice the tolerance."""
    ranked = values[decision.ranked].astype(np.float64)
    axis = decision.axis % max(ranked.ndim, 1)
    left, right = (
        array if decision.keepdims else np.expand_dims(array, axis) for array in (output.expected, output.actual)
    )
    size = ranked.shape[axis]
    legal = (left >= -size) & (left < size) & (right >= -size) & (right < size)
    first, second = (np.take_along_axis(ranked, np.where(legal, index, 0), axis) for index in (left, right))
    with np.errstate(invalid="ignore"):
        near = np.abs(first - second) <= 2 * tolerance * scale_of(values[decision.ranked])
    far: Array = (left != right) & ~(legal & (near | (first == second)))
    return far


def _far_positions(output: Flipped, tolerance: float, decision: Decision, values: Arrays) -> Array:
    """Return which positions are in one list only though nothing there is near a threshold."""
    near = _near(decision.thresholds, tolerance, values)
    tables = [array if decision.axis == 0 else array.T for array in (output.expected, output.actual)]
    wanted, given = ({tuple(int(index) for index in row): None for row in table} for table in tables)
    kept = [[row for row in rows if row in others] for rows, others in ((wanted, given), (given, wanted))]
    if kept[0] != kept[1]:
        return np.ones(1, dtype=bool)
    changed = sorted(wanted.keys() ^ given.keys())
    far = [not (len(position) == near.ndim and _at(near, position)) for position in changed]
    return np.array(far, dtype=bool)


def _at(mask: Array, position: tuple[int, ...]) -> bool:
    inside = all(0 <= index < size for index, size in zip(position, mask.shape, strict=True))
    return inside and bool(mask[position])
