"""The report for people: one file that needs no network, no script and no font of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mlc.figures import counted, ends, megabytes, middle, milliseconds, percent
from mlc.judging import DONE, INCONCLUSIVE, MET, MISSED, SLOWER, UNMODIFIED, Report, compared
from mlc.measuring import Trial
from mlc.report import history, plots, results, setting
from mlc.report.cells import baseline_of, notes, original_accuracy, shipped_of
from mlc.report.markdown import title
from mlc.report.table import plain

MOST_ROWS = 1000
"""Rows of one table, so that a report of a network of any size stays under 2 MB."""

STATES = {
    DONE: ("Done", "good"),
    SLOWER: ("Done, slower", "warn"),
    UNMODIFIED: ("Unmodified", "warn"),
    MISSED: ("Limit missed", "bad"),
    INCONCLUSIVE: ("Inconclusive", "warn"),
}
"""What an outcome of a run is called, and its tone."""

TONES = {MET: "good", MISSED: "bad", INCONCLUSIVE: "warn"}


@dataclass(frozen=True)
class Tile:
    """One figure that a hurried reader looks for."""

    label: str
    value: str
    detail: str
    tone: str = ""


def render(report: Report) -> str:
    """Return the whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlc", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    state, tone = STATES.get(report.outcome, (report.outcome, ""))
    return environment.get_template("report.html.j2").render(
        report=report,
        title=plain(title(report)),
        state=state,
        tone=tone,
        tones=TONES,
        tiles=tiles(report),
        notes=notes(report),
        results=results,
        history=history,
        setting=setting,
        plots=plots,
        baseline=baseline_of(report),
        placed=history.placement_of(report),
        most=MOST_ROWS,
        counted=counted,
        plain=plain,
    )


def tiles(report: Report) -> list[Tile]:
    """Return the figures of what ships, each beside the baseline's."""
    shipped, baseline = shipped_of(report), baseline_of(report)
    if shipped is None:
        return []
    other = None if shipped is baseline else baseline
    tones = {verdict.limit: TONES.get(verdict.outcome, "") for verdict in report.verdicts}
    made = {
        "min-speedup": _speed(shipped, other),
        "max-drop": _drop(shipped),
        "max-latency": _latency(shipped, other),
        "max-size": _size(shipped, other),
    }
    return [replace(tile, tone=tones.get(limit, tile.tone)) for limit, tile in made.items() if tile]


def _speed(shipped: Trial, other: Trial | None) -> Tile | None:
    if shipped.latency is None or other is None:
        return None
    how = compared(shipped.latency)
    tone = {"faster": "good", "slower": "bad"}.get(how, "")
    detail = f"95 % interval {ends(shipped.latency.speedup)}"
    return Tile("Speed-up", f"{middle(shipped.latency.speedup)}x", detail, tone)


def _drop(shipped: Trial) -> Tile | None:
    accuracy = shipped.accuracy
    if accuracy is None or math.isnan(accuracy.drop.value):
        return None
    detail = f"{ends(accuracy.drop)}; original {original_accuracy(accuracy)}"
    return Tile(f"Drop of {accuracy.metric}", middle(accuracy.drop), detail)


def _latency(shipped: Trial, other: Trial | None) -> Tile | None:
    if shipped.latency is None:
        return None
    detail = f"was {milliseconds(other.latency.p50)}" if other and other.latency else "one run"
    return Tile("Latency, p50", milliseconds(shipped.latency.p50), detail)


def _size(shipped: Trial, other: Trial | None) -> Tile:
    detail = "on disk"
    if other and other.size_bytes:
        detail = f"{percent(shipped.size_bytes / other.size_bytes)} of {megabytes(other.size_bytes)}"
    return Tile("Size", megabytes(shipped.size_bytes), detail)
