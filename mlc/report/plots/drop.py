"""The loss of accuracy with its interval, beside the limit."""

from __future__ import annotations

from mlc.figures import short
from mlc.judging import Report, allowed_drop
from mlc.measuring import Accuracy
from mlc.report.cells import shown_trials
from mlc.report.plots.canvas import (
    ABOVE,
    AXIS,
    BESIDE,
    Plot,
    add_interval,
    add_lines,
    chart,
    finite,
    inlined,
    limits,
    ticks,
)

HEIGHT = 46
"""CSS pixels above the axis."""


def drop_plots(report: Report) -> list[Plot]:
    """Return the loss of accuracy of the two trials that matter; the baseline only where it has any."""
    shipped = report.trial
    shown = [
        (heading, trial.accuracy)
        for heading, trial in shown_trials(report)
        if trial.accuracy and finite(trial.accuracy.drop) and (trial is shipped or trial.accuracy.drop.value != 0)
    ]
    asked = report.recipe.limits.max_drop
    limit = allowed_drop(asked, shown[0][1].original) if asked is not None and shown else None
    reach = [end for _, accuracy in shown for end in (accuracy.drop.low, accuracy.drop.high)]
    span = limits([0.0, *reach, *([] if limit is None else [limit])])
    return [Plot(heading, short(accuracy.drop), _drawn(heading, accuracy, limit, span)) for heading, accuracy in shown]


def _drawn(heading: str, accuracy: Accuracy, limit: float | None, span: tuple[float, float]) -> str:
    figure = f"loss of {accuracy.metric}: {short(accuracy.drop)}"
    limited = "" if limit is None else f"limit {limit:.4g}"
    across = {"xrange": span, "x_labels": ticks(span), "x_title": "loss; right is worse", "show_x_guides": True}
    around = {"margin_top": ABOVE, "margin_left": 16, "margin_right": BESIDE}
    drawing = chart("XY", HEIGHT + AXIS, range=(-1, 1), show_y_labels=False, **around, **across)
    add_lines(drawing, (-1, 1), 0, limit, limited)
    add_interval(drawing, accuracy.drop, 0, figure)
    said = f"; the limit is {limit:.4g}" if limited else ""
    return inlined(drawing, f"{heading}: {figure}{said}")
