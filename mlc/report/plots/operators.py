"""Where the time of a run goes: bars by kind of operator, the baseline's beside the other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlc.figures import counted, milliseconds
from mlc.judging import Report
from mlc.measuring import Trial
from mlc.report.cells import shown_trials
from mlc.report.plots.canvas import Ink, Plot, canvas, drawable

MOST_ROWS = 14
ROW = 30
"""CSS pixels from one operator to the next."""

AROUND = 46
"""CSS pixels of the axis below the bars."""

THICK = 0.36
"""Height of a bar, of the distance between two operators."""


@dataclass(frozen=True)
class Spent:
    """Milliseconds by operator of one trial, and what is said of each."""

    heading: str
    milliseconds: tuple[float, ...]
    texts: tuple[str, ...]


def operator_plots(report: Report) -> list[Plot]:
    """Return the time by operator of the two trials that matter, the operators that take longest first."""
    shown = [(heading, trial) for heading, trial in shown_trials(report) if trial.profile]
    totals = {op: max(_spent(trial, op)[0] for _, trial in shown) for op in _operators([t for _, t in shown])}
    if not any(totals.values()):
        return []
    names = sorted(totals, key=lambda op: (-totals[op], op))[:MOST_ROWS]
    columns = [_column(heading, trial, names) for heading, trial in shown]
    keys = tuple(heading for heading, _ in shown)
    note = f"The {len(names)} operators that take longest; all are in the table." if len(totals) > len(names) else ""
    return [Plot("", "", _drawn(names, columns), keys, note)]


def _drawn(names: Sequence[str], columns: Sequence[Spent]) -> str:
    with canvas("operators", AROUND + ROW * len(names)) as drawing:
        axes = drawing.axes
        for number, (column, ink) in enumerate(zip(columns, (Ink.BEFORE, Ink.ACCENT), strict=False)):
            rows = [place + (number - (len(columns) - 1) / 2) * (THICK + 0.03) for place in range(len(names))]
            bars = axes.barh(rows, column.milliseconds, height=THICK, color=ink)
            for bar, text in zip(bars, column.texts, strict=True):
                drawing.tip(bar, [text])
        axes.set_yticks(range(len(names)), labels=[drawable(name) for name in names])
        axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="ms in one run")
        axes.locator_params(axis="x", nbins=5)
        slowest = "; ".join(column.texts[0] for column in columns)
        return drawing.svg(f"Time by operator. {slowest}. The table has all of them.")


def _column(heading: str, trial: Trial, names: Sequence[str]) -> Spent:
    spent = [_spent(trial, name) for name in names]
    texts = [
        f"{name}, {heading}: {milliseconds(ms)} in {counted(count, 'node')}"
        for name, (ms, count) in zip(names, spent, strict=True)
    ]
    return Spent(heading, tuple(ms for ms, _ in spent), tuple(texts))


def _operators(trials: Sequence[Trial]) -> set[str]:
    return {entry.op for trial in trials if trial.profile for entry in trial.profile.operators}


def _spent(trial: Trial, op: str) -> tuple[float, int]:
    entries = [entry for entry in trial.profile.operators if entry.op == op] if trial.profile else []
    return sum(entry.microseconds for entry in entries) / 1e3, sum(entry.count for entry in entries)
