"""The loss of accuracy with its interval, beside the limit."""

from __future__ import annotations

from mlc.figures import short
from mlc.judging import Report, allowed_drop
from mlc.measuring import Accuracy
from mlc.report.cells import shipped_of, shown_trials
from mlc.report.plots.canvas import Ink, Plot, canvas, finite, limits
from mlc.types import Interval

HEIGHT = 92


def drop_plots(report: Report) -> list[Plot]:
    """Return the loss of accuracy of the two trials that matter; the baseline only where it has any."""
    shipped = shipped_of(report)
    shown = [
        (heading, trial.accuracy)
        for heading, trial in shown_trials(report)
        if trial.accuracy
        and finite(trial.accuracy.drop)
        and (trial is shipped or trial.accuracy.drop != Interval(0.0, 0.0, 0.0))
    ]
    asked = report.recipe.limits.max_drop
    limit = allowed_drop(asked, shown[0][1].original) if asked is not None and shown else None
    reach = [end for _, accuracy in shown for end in (accuracy.drop.low, accuracy.drop.high)]
    span = limits([0.0, *reach, *([] if limit is None else [limit])])
    return [
        Plot(heading, short(accuracy.drop), _drawn(f"drop{number}", heading, accuracy, limit, span))
        for number, (heading, accuracy) in enumerate(shown)
    ]


def _drawn(name: str, heading: str, accuracy: Accuracy, limit: float | None, span: tuple[float, float]) -> str:
    figure = f"loss of {accuracy.metric}: {short(accuracy.drop)}"
    said = "" if limit is None else f"; the limit is {limit:.4g}"
    with canvas(name, HEIGHT) as drawing:
        axes = drawing.axes
        axes.set(xlim=span, ylim=(-1, 1), yticks=[], xlabel="loss; right is worse")
        axes.locator_params(axis="x", nbins=5)
        axes.axvline(0, color=Ink.TEXT, linewidth=1.2, linestyle="--")
        if limit is not None:
            drawing.asked(limit, f"limit {limit:.4g}")
        drawing.interval(accuracy.drop, 0, figure)
        return drawing.svg(f"{heading}: {figure}{said}")
