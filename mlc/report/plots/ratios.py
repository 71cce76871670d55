"""The paired latency ratios: every round a dot, every process a lane, over the noise of the baseline beside itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlc.figures import counted, ends, short, significant
from mlc.judging import Report, noise_band
from mlc.measuring import Latency, Trial
from mlc.report.cells import baseline_of
from mlc.report.plots.canvas import Canvas, Ink, Plot, canvas, limits
from mlc.types import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PLOTS = 8
MOST_DOTS = 1500
"""Rounds drawn in all plots together; of more, every second, third and so on, and each process's extremes."""

LANE = 17
"""CSS pixels from one process to the next."""

AROUND = 66
"""CSS pixels above and below the lanes: what was asked, and the axis."""

Dot = tuple[float, int, str]
"""A ratio, the number of its process, and what is said of it."""


def ratio_plots(report: Report) -> list[Plot]:
    """Return the ratios of all trials that were timed beside the baseline, each over a range of its own."""
    timed = [
        (trial, trial.latency) for trial in report.trials if trial.latency and any(map(_finite, trial.latency.ratios))
    ][:MOST_PLOTS]
    step = -(-sum(len(lane) for _, latency in timed for lane in latency.ratios) // MOST_DOTS)
    asked = report.recipe.limits.min_speedup
    return [
        _plot(f"ratio{number}", trial, latency, asked, step, itself=trial is baseline_of(report))
        for number, (trial, latency) in enumerate(timed)
    ]


def _plot(name: str, trial: Trial, latency: Latency, asked: float | None, step: int, *, itself: bool) -> Plot:
    interval, asked = (latency.noise, None) if itself else (latency.speedup, asked)
    heading = f"{trial.candidate.name}, beside itself" if itself else trial.candidate.name
    figure = f"noise {ends(interval)}" if itself else f"{short(interval)} times as fast as the baseline"
    dots = [dot for number, lane in enumerate(latency.ratios, 1) for dot in _dots(number, lane, step)]
    span = limits([1.0, *([] if asked is None else [asked]), *_extent(latency, interval)])
    beyond = [dot for dot in dots if not span[0] <= dot[0] <= span[1]]
    with canvas(name, AROUND + LANE * (len(latency.ratios) + 1)) as drawing:
        _lanes(drawing.axes, len(latency.ratios), span)
        _marks(drawing, noise_band(latency.noise), asked)
        _scatter(drawing, [dot for dot in dots if dot not in beyond], color=Ink.ACCENT, alpha=0.55, linewidths=0)
        held = [(min(max(ratio, span[0]), span[1]), number, text) for ratio, number, text in beyond]
        _scatter(drawing, held, facecolor=Ink.PAGE, edgecolor=Ink.ACCENT)
        drawing.interval(interval, len(latency.ratios) + 1, f"95 % interval: {short(interval)}")
        count = sum(len(_finite(lane)) for lane in latency.ratios)
        svg = drawing.svg(f"{heading}: {figure}, in {counted(count, 'round')}")
    return Plot(heading, figure, svg, note=_note(step, len(beyond)))


def _marks(drawing: Canvas, band: tuple[float, float], asked: float | None) -> None:
    """Draw what the rounds are compared with: the baseline beside itself, equal speed, and what was asked."""
    if math.isfinite(band[1]):
        drawing.axes.axvspan(*band, color=Ink.BAND, linewidth=0, zorder=0)
    drawing.axes.axvline(1, color=Ink.TEXT, linewidth=1.2, linestyle="--", zorder=1)
    if asked is not None:
        drawing.asked(asked, f"asked {asked:g}x")


def _lanes(axes: Axes, count: int, span: tuple[float, float]) -> None:
    """Name the lanes from the top down, the interval below them."""
    rows = range(1, count + 2)
    axes.set(xlim=span, ylim=(count + 1.7, 0.4), xlabel="times as fast as the baseline")
    axes.set_yticks(rows, labels=[*(f"process {number}" for number in rows[:-1]), "all, 95 %"])
    axes.locator_params(axis="x", nbins=6)


def _scatter(drawing: Canvas, dots: Sequence[Dot], **look: object) -> None:
    if dots:
        ratios, numbers, texts = zip(*dots, strict=True)
        drawing.tip(drawing.axes.scatter(ratios, numbers, s=30, clip_on=False, **look), texts)  # type: ignore[arg-type]


def _dots(number: int, lane: Sequence[float], step: int) -> list[Dot]:
    """Return every ``step``-th round of a process, and its fastest and slowest."""
    finite = _finite(lane)
    ends_of_lane = {min(finite), max(finite)} if finite else set()
    return [
        (ratio, number, f"process {number}, round {place}: {significant(ratio, 4)}x")
        for place, ratio in enumerate(lane, 1)
        if math.isfinite(ratio) and ((place - 1) % step == 0 or ratio in ends_of_lane)
    ]


def _extent(latency: Latency, interval: Interval) -> list[float]:
    """Return the values that an axis must hold: intervals whole, of the rounds all but the farthest hundredth."""
    rounds = [ratio for lane in latency.ratios for ratio in _finite(lane)]
    inner = np.quantile(rounds, (0.01, 0.99))
    return [interval.low, interval.high, *noise_band(latency.noise), *map(float, inner)]


def _finite(lane: Sequence[float]) -> list[float]:
    return [ratio for ratio in lane if math.isfinite(ratio)]


def _note(step: int, beyond: int) -> str:
    notes = [f"One round in {step} is drawn, and the fastest and slowest of each process."] if step > 1 else []
    notes += [f"{counted(beyond, 'round')} beyond the axis: hollow, at its end."] if beyond else []
    return " ".join(notes)
