"""Intervals of shares and of paired differences: published examples, coverage, symmetry."""

from __future__ import annotations

import numpy as np
import pytest

from mlc.measuring.proportions import paired_interval, share_interval


def test_a_share_of_hits_has_the_score_interval():
    """The example of Newcombe (Statistics in Medicine 17, 1998, 857): 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for hits, count, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        interval = share_interval(hits, count)
        assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert share_interval(5, 5).high == 1


@pytest.mark.parametrize(
    ("count", "lost", "gained"), [(50, 0.1, 0.05), (200, 0.01, 0.005), (300, 0.003, 0), (20, 0.3, 0.1)]
)
def test_the_interval_of_a_paired_difference_covers(count, lost, gained):
    drawn = np.random.default_rng(0).multinomial(count, [lost, gained, 1 - lost - gained], 1000)
    intervals = [paired_interval(int(first), int(second), count) for first, second, _ in drawn]
    covered = np.mean([interval.low <= lost - gained <= interval.high for interval in intervals])
    assert covered > 0.93
    assert np.mean([interval.high < lost - gained for interval in intervals]) < 0.035


def test_a_paired_difference_is_the_same_the_other_way_round():
    for lost, gained, count in ((3, 1, 40), (5, 0, 5), (0, 0, 1)):
        there, back = paired_interval(lost, gained, count), paired_interval(gained, lost, count)
        assert there.value == -back.value
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
