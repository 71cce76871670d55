"""Where the time of a run goes: bars by kind of operator, the baseline's beside the other's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from mlc.figures import counted, milliseconds
from mlc.judging import Report
from mlc.measuring import Trial
from mlc.report.cells import shown_trials
from mlc.report.plots.canvas import AXIS, Plot, chart, inlined, limits, shortened, ticks
from mlc.report.table import plain

MOST_ROWS = 14
ROW = 30
"""CSS pixels from one operator to the next."""


class Bar(TypedDict):
    """Milliseconds of one operator as pygal takes them, and what is said of them."""

    value: float
    tooltip: str


def operator_plots(report: Report) -> list[Plot]:
    """Return the time by operator of the two trials that matter, the operators that take longest first."""
    shown = [(heading, trial) for heading, trial in shown_trials(report) if trial.profile]
    totals = {op: max(_spent(trial, op)[0] for _, trial in shown) for op in _operators([t for _, t in shown])}
    if not any(totals.values()):
        return []
    names = sorted(totals, key=lambda op: (-totals[op], op))[:MOST_ROWS]
    keys = tuple(heading for heading, _ in shown)
    note = f"The {len(names)} operators that take longest; all are in the table." if len(totals) > len(names) else ""
    return [Plot("", "", _drawn(names, [_bars(heading, trial, names) for heading, trial in shown]), keys, note)]


def _drawn(names: Sequence[str], columns: Sequence[Sequence[Bar]]) -> str:
    """Draw bars from the top down; pygal counts from the bottom."""
    span = (0.0, limits(bar["value"] for bars in columns for bar in bars)[1])
    drawing = chart(
        "HorizontalBar",
        AXIS + ROW * len(names),
        x_labels=[shortened(name) for name in reversed(names)],
        range=span,
        y_labels=ticks(span, 5),
        x_title="ms in one run",
    )
    for series, bars in zip(("before", "after"), columns, strict=False):
        drawing.add(series, bars[::-1])
    slowest = "; ".join(bars[0]["tooltip"] for bars in columns)
    return inlined(drawing, f"Time by operator. {slowest}. The table has all of them.")


def _bars(heading: str, trial: Trial, names: Sequence[str]) -> list[Bar]:
    spent = [(name, *_spent(trial, name)) for name in names]
    return [
        {"value": ms, "tooltip": plain(f"{name}, {heading}: {milliseconds(ms)} in {counted(count, 'node')}")}
        for name, ms, count in spent
    ]


def _operators(trials: Sequence[Trial]) -> set[str]:
    return {entry.op for trial in trials if trial.profile for entry in trial.profile.operators}


def _spent(trial: Trial, op: str) -> tuple[float, int]:
    entries = [entry for entry in trial.profile.operators if entry.op == op] if trial.profile else []
    return sum(entry.microseconds for entry in entries) / 1e3, sum(entry.count for entry in entries)
