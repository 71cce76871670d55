"""Differences and ratios of two figures of which each has an interval of its own."""

from __future__ import annotations

import math

from mlc.types import Interval


def difference(first: Interval, second: Interval) -> Interval:
    """Return ``second - first`` with its 95 % interval; the two are taken as independent.

    Square-and-add limits after Zou and Donner (Statistics in Medicine 27, 2008). Where the figures rise and fall
    together, as those of the same samples do, the interval is wider than it has to be, never narrower.
    """
    value = second.value - first.value
    down = math.hypot(second.value - second.low, first.high - first.value)
    up = math.hypot(second.high - second.value, first.value - first.low)
    return Interval(value, value - down, value + up)


def ratio(first: Interval, second: Interval) -> Interval | None:
    """Return ``second / first`` with its 95 % interval, by the difference of logarithms; None where one has no end."""
    ends = (first.low, first.value, first.high, second.low, second.value, second.high)
    if not all(0 < end < math.inf for end in ends):
        return None
    logs = (Interval(*map(math.log, (each.value, each.low, each.high))) for each in (first, second))
    change = difference(*logs)
    return Interval(*map(math.exp, (change.value, change.low, change.high)))


def joint_noise(first: float, second: float) -> float:
    """Return the factor within which two measurements are called the same, from the factor of each."""
    return math.exp(math.hypot(math.log(first), math.log(second)))
