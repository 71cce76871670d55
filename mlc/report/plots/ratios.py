"""The paired latency ratios: every round a dot, every process a lane, over the noise of the baseline beside itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlc.figures import counted, ends, short, significant
from mlc.judging import Report, noise_band
from mlc.measuring import Latency, Trial
from mlc.report.plots.canvas import (
    ABOVE,
    AXIS,
    BESIDE,
    Plot,
    add_interval,
    add_lines,
    chart,
    dot,
    inlined,
    limits,
    ticks,
)
from mlc.types import Interval

MOST_PLOTS = 8
MOST_DOTS = 1500
"""Rounds drawn in all plots together; of more, every second, third and so on, and each process's extremes."""

WIDE = 4
"""How many times the width of the middle half of the rounds an axis reaches beyond it."""

LANE = 19
"""CSS pixels from one process to the next."""

Round = tuple[float, int, str]
"""A ratio, the number of its process, and what is said of it."""


def ratio_plots(report: Report) -> list[Plot]:
    """Return the ratios of all trials that were timed beside the baseline, each over a range of its own."""
    timed = [
        (trial, trial.latency) for trial in report.trials if trial.latency and any(map(_finite, trial.latency.ratios))
    ][:MOST_PLOTS]
    step = -(-sum(len(lane) for _, latency in timed for lane in latency.ratios) // MOST_DOTS)
    asked = report.recipe.limits.min_speedup
    return [
        _plot(trial, latency, asked if trial is report.trial else None, step, itself=trial is report.baseline)
        for trial, latency in timed
    ]


def _plot(trial: Trial, latency: Latency, asked: float | None, step: int, *, itself: bool) -> Plot:
    interval, asked = (latency.noise, None) if itself else (latency.speedup, asked)
    heading = f"{trial.candidate.name}, beside itself" if itself else trial.candidate.name
    figure = f"noise {ends(interval)}" if itself else f"{short(interval)} times as fast as the baseline"
    rounds = [round_ for number, lane in enumerate(latency.ratios, 1) for round_ in _rounds(number, lane, step)]
    span = limits([1.0, *([] if asked is None else [asked]), *_extent(latency, interval)])
    last, band = len(latency.ratios) + 1, noise_band(latency.noise)
    drawing = _lanes(last, span)
    if math.isfinite(band[1]):
        drawing.add("band", [(end, last + 0.5) for end in band], show_dots=False, fill=True)
    add_lines(drawing, (last + 0.5, 0.5), 1, asked, f"asked {asked:g}x" if asked is not None else "")
    drawing.add("rounds", [_dot(each, span) for each in rounds], stroke=False)
    add_interval(drawing, interval, last, f"95 % interval: {short(interval)}")
    count = sum(len(_finite(lane)) for lane in latency.ratios)
    svg = inlined(drawing, f"{heading}: {figure}, in {counted(count, 'round')}")
    return Plot(heading, figure, svg, note=_note(step, sum(_beyond(each[0], span) for each in rounds)))


def _lanes(last: int, span: tuple[float, float]) -> Any:
    """Return a chart whose lanes are named from the top down, the interval below them."""
    named = [*(f"process {number}" for number in range(1, last)), "all, 95 %"]
    down = [{"value": number, "label": name} for number, name in enumerate(named, 1)]
    across = {"xrange": span, "x_labels": ticks(span), "x_title": "times as fast as the baseline"}
    return chart(
        "XY",
        ABOVE + LANE * last + AXIS,
        range=(0.5, last + 0.5),
        y_labels=down,
        inverse_y_axis=True,
        show_x_guides=True,
        show_y_guides=False,
        dots_size=3.2,
        margin_top=ABOVE,
        margin_right=BESIDE,
        **across,
    )


def _dot(round_: Round, span: tuple[float, float]) -> dict[str, object]:
    """Return a dot, hollow at the end of the axis where the ratio is beyond it."""
    ratio, number, text = round_
    look = {"class": "hollow"} if _beyond(ratio, span) else {}
    return dot(min(max(ratio, span[0]), span[1]), number, text, **look)


def _beyond(ratio: float, span: tuple[float, float]) -> bool:
    return not span[0] <= ratio <= span[1]


def _rounds(number: int, lane: Sequence[float], step: int) -> list[Round]:
    """Return every ``step``-th round of a process, and its fastest and slowest."""
    finite = _finite(lane)
    ends_of_lane = {min(finite), max(finite)} if finite else set()
    return [
        (ratio, number, f"process {number}, round {place}: {significant(ratio, 4)}x")
        for place, ratio in enumerate(lane, 1)
        if math.isfinite(ratio) and ((place - 1) % step == 0 or ratio in ends_of_lane)
    ]


def _extent(latency: Latency, interval: Interval) -> list[float]:
    """Return the values that an axis must hold: intervals whole, of the rounds what is usual."""
    return [interval.low, interval.high, *noise_band(latency.noise), *_usual(latency)]


def _usual(latency: Latency) -> list[float]:
    """Return the ends of what is usual among the rounds: nine tenths of them, and of those no stragglers.

    Without that one slow round in ten would press all others together.
    """
    rounds = [ratio for lane in latency.ratios for ratio in _finite(lane)]
    least, first, third, most = map(float, np.quantile(rounds, (0.05, 0.25, 0.75, 0.95)))
    reach = WIDE * (third - first)
    return [max(least, first - reach), min(most, third + reach)]


def _finite(lane: Sequence[float]) -> list[float]:
    return [ratio for ratio in lane if math.isfinite(ratio)]


def _note(step: int, beyond: int) -> str:
    notes = [f"One round in {step} is drawn, and the fastest and slowest of each process."] if step > 1 else []
    notes += [f"{counted(beyond, 'round')} beyond the axis: hollow, at its end."] if beyond else []
    return " ".join(notes)
