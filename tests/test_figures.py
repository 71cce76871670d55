"""Figures as people read them: units, and no more digits than were measured."""

from __future__ import annotations

import math

import pytest

from mlc.figures import decibels, error, megabytes, milliseconds, percent, seconds, short, significant, supported
from mlc.types import Interval


@pytest.mark.parametrize(
    ("value", "half_width", "written"),
    [
        (0.91254, 0.0123, "0.913"),
        (0.91254, 0.0312, "0.91"),
        (0.91254, 0.0, "0.9125"),
        (0.0, 0.0, "0"),
        (1.0, 0.0, "1"),
        (11.4352, 0.09, "11.44"),
        (123456.0, 2345.0, "123,500"),
        (-0.00004, 0.002, "0.0000"),
        (-0.00061, 0.0021, "-0.0006"),
        (1.2345e-12, 3e-14, "1.23e-12"),
        (math.nan, 0.1, "not a number"),
        (0.5, math.inf, "0.5000"),
    ],
)
def test_no_more_digits_than_the_interval_supports(value, half_width, written):
    assert supported(value, half_width) == written


@pytest.mark.parametrize(
    ("function", "value", "written"),
    [
        (milliseconds, 1.2345, "1.23 ms"),
        (milliseconds, 0.0012345, "0.00123 ms"),
        (milliseconds, 1234.5, "1,230 ms"),
        (milliseconds, 9.996, "10.0 ms"),
        (seconds, 0.0213, "21.3 ms"),
        (seconds, 0.9999, "1,000 ms"),
        (seconds, 41.73, "41.7 s"),
        (megabytes, 342_118, "0.342 MB"),
        (decibels, math.inf, "equal"),
        (decibels, 38.71, "38.7 dB"),
        (decibels, -math.inf, "-infinite dB"),
        (percent, 1.0, "100 %"),
        (percent, 0.999999, "over 99.99 %"),
        (percent, 0.000001, "under 0.01 %"),
        (percent, 0.9965, "99.65 %"),
        (error, 0.0, "0"),
        (error, 3.14e-7, "3.1e-07"),
        (error, 0.0734, "0.073"),
        (error, math.inf, "infinite"),
        (significant, 1.5e-9, "1.50e-09"),
        (significant, 1e18, "1.00e+18"),
    ],
)
def test_units(function, value, written):
    assert function(value) == written


def test_an_interval_is_short():
    assert short(Interval(2.413, 2.352, 2.471)) == "2.41 (2.35 to 2.47)"
    assert short(Interval(0.0, 0.0, 0.0)) == "0"
    assert short(Interval(0.0, -math.inf, math.inf)) == "0 (not known)"
