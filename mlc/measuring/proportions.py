"""Intervals of shares: exact enough for a handful of samples, where resampling would find them certain."""

from __future__ import annotations

import math
from statistics import NormalDist

from mlc.types import Interval

NORMAL = NormalDist().inv_cdf(0.975)
"""The two-sided 95 % quantile of the normal distribution."""

HALVINGS = 60
"""Steps of a bisection over [-1, 1] that end below the resolution of a float."""


def share_interval(hits: int, count: int) -> Interval:
    """Return a share with the score interval of Wilson (1927); no hit of ``count`` is at most about 3.8/``count``."""
    share, spread = hits / count, NORMAL**2 / count
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return Interval(share, min(max(0.0, middle - reach), share), max(min(1.0, middle + reach), share))


def paired_interval(lost: int, gained: int, count: int) -> Interval:
    """Return the difference of two paired shares, ``(lost - gained) / count``, with its score interval.

    ``lost`` and ``gained`` are the samples on which only the first or only the second model is right. The ends are
    where the score statistic of Tango (Statistics in Medicine 17, 1998) reaches the quantile; it falls along the
    differences. Without a sample that differs they are about 3.8/``count`` away.
    """
    value = (lost - gained) / count

    def crossing(quantile: float, low: float, high: float) -> float:
        """Return the difference between ``low`` and ``high`` at which the score statistic has a value."""
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if _score(middle, lost, gained, count) > quantile else (low, middle)
        return (low + high) / 2

    return Interval(value, crossing(NORMAL, -1.0, value), crossing(-NORMAL, value, 1.0))


def _score(difference: float, lost: int, gained: int, count: int) -> float:
    """Return the deviation of what was seen from a difference, in standard deviations under that difference.

    The share of samples that only the second model gets right is estimated under it, by maximum likelihood.
    """
    linear = (2 * count - lost + gained) * difference - lost - gained
    constant = -gained * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear**2 - 8 * count * constant)) - linear) / (4 * count)
    variance = count * (2 * share + difference * (1 - difference))
    deviation = lost - gained - count * difference
    if variance <= 0:
        return math.copysign(math.inf, deviation) if deviation else 0.0
    return deviation / math.sqrt(variance)
