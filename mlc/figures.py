"""How figures are written for people: units always, and no more digits than were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlc.types import Interval

PLAIN = range(-6, 15)
"""Powers of ten that are written out; others take the exponent form."""

UNKNOWN = "not known"
"""In the place of an interval without ends: no sample differs from the others, so none tells how far it may reach."""

SMALL = 0.01
"""Errors below are written in exponent form."""


def significant(value: float, digits: int = 3) -> str:
    """Return a figure with that many significant digits, never in exponent form between 1e-6 and 1e15."""
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    if math.isnan(value):
        return "not a number"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if exponent not in PLAIN:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}"


def spread(interval: Interval) -> float:
    """Return half the width of an interval."""
    return (interval.high - interval.low) / 2


def supported(value: float, half_width: float) -> str:
    """Return a figure with the digits that an uncertainty of ``half_width`` supports.

    The uncertainty keeps two digits where it starts with 1 or 2, else one (the rule of the Particle Data Group); an
    exact figure (no width) gets four significant digits.
    """
    if not math.isfinite(value) or not math.isfinite(half_width) or half_width <= 0:
        return significant(value, 4).removesuffix(".000") if math.isfinite(value) else significant(value)
    first = float(f"{half_width:.1e}")
    exponent = math.floor(math.log10(first))
    decimals = -exponent + (1 if f"{first:e}"[0] in "12" else 0)
    if decimals > -PLAIN.start:
        return f"{value:.{max(0, math.floor(math.log10(abs(value) or half_width)) + decimals)}e}"
    text = f"{round(value, decimals):,.{max(0, decimals)}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def middle(interval: Interval) -> str:
    """Return an interval's value with the digits that the interval supports."""
    return supported(interval.value, spread(interval))


def ends(interval: Interval) -> str:
    """Return ``low to high`` with the digits that the interval supports, or that it is not known."""
    if not known(interval):
        return UNKNOWN
    width = spread(interval)
    return f"{supported(interval.low, width)} to {supported(interval.high, width)}"


def measured(interval: Interval, unit: str = "") -> str:
    """Return ``value (95 % interval low to high)``, or the value alone where it is exact."""
    value = f"{middle(interval)}{unit}"
    return value if exact(interval) else f"{value} (95 % interval {ends(interval)})"


def short(interval: Interval) -> str:
    """Return ``value (low to high)``, or the value alone where it is exact."""
    return middle(interval) if exact(interval) else f"{middle(interval)} ({ends(interval)})"


def known(interval: Interval) -> bool:
    """Whether the ends of an interval are finite."""
    return math.isfinite(interval.low) and math.isfinite(interval.high)


def exact(interval: Interval) -> bool:
    """Whether an interval has no width."""
    return interval.low == interval.high


def times(interval: Interval) -> str:
    """Return a speed-up: ``2.41x (2.33 to 2.49)``."""
    return f"{middle(interval)}x" if exact(interval) else f"{middle(interval)}x ({ends(interval)})"


def milliseconds(value: float) -> str:
    """Return a duration in ms, three significant digits."""
    return f"{significant(value)} ms"


def seconds(value: float) -> str:
    """Return a duration in s, or in ms below one second; three significant digits."""
    return f"{significant(value)} s" if value >= 1 or value == 0 else milliseconds(value * 1e3)


def megabytes(count: float) -> str:
    """Return a number of bytes in MB of 10**6 bytes, three significant digits."""
    return f"{significant(count / 1e6)} MB"


def decibels(value: float) -> str:
    """Return a signal to noise ratio in dB; two equal signals are called so."""
    return "equal" if value == math.inf else f"{value:.1f} dB" if math.isfinite(value) else f"{significant(value)} dB"


def percent(share: float) -> str:
    """Return a share of one in %, two decimals; what is not all or nothing is never rounded to it."""
    text = f"{share * 100:.2f}"
    if text == "100.00" and share < 1:
        return "over 99.99 %"
    if text == "0.00" and share > 0:
        return "under 0.01 %"
    return f"{text.removesuffix('.00')} %"


def error(value: float) -> str:
    """Return an error over the rms with two significant digits, small ones in exponent form."""
    return significant(value, 2) if value == 0 or not 0 < value < SMALL else f"{value:.1e}"


def counted(count: int, one: str, many: str = "") -> str:
    """Return ``1 site`` or ``3 sites``; ``many`` is what stands behind other numbers where that is not an s more."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def some(sentences: Sequence[str], most: int = 3) -> str:
    """Return the first of several sentences, and how many more there are."""
    more = len(sentences) - most
    return "; ".join([*sentences[:most], *([f"and {more:,} more"] if more > 0 else [])])


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Return the sizes of named dims as ``batch=8, seq=128``; a model without any has fixed sizes."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"
