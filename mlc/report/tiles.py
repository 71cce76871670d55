"""The three or four figures that a hurried reader looks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mlc.figures import ends, megabytes, middle, milliseconds, percent
from mlc.judging import INCONCLUSIVE, MET, MISSED, Report, compared
from mlc.measuring import Trial
from mlc.report.cells import original_accuracy

TONES = {MET: "good", MISSED: "bad", INCONCLUSIVE: "warn"}
"""How a verdict looks."""


@dataclass(frozen=True)
class Tile:
    """One figure of what ships, beside the baseline's; ``asked`` is the limit on it and its verdict."""

    label: str
    value: str
    detail: str
    tone: str = ""
    asked: str = ""


def tiles(report: Report) -> list[Tile]:
    """Return the figures of what ships, each beside the baseline's."""
    shipped, baseline = report.trial, report.baseline
    if shipped is None:
        return []
    other = None if shipped is baseline else baseline
    made = {
        "min-speedup": _speed(shipped, other),
        "max-drop": _drop(shipped),
        "max-latency": _latency(shipped, other),
        "max-size": _size(shipped, other),
    }
    return [_limited(tile, limit, report) for limit, tile in made.items() if tile]


def _limited(tile: Tile, limit: str, report: Report) -> Tile:
    """Add the verdict on a limit, if there is one."""
    verdict = next((each for each in report.verdicts if each.limit == limit), None)
    if verdict is None:
        return tile
    return replace(tile, tone=TONES.get(verdict.outcome, tile.tone), asked=f"{verdict.asked}: {verdict.outcome}")


def _speed(shipped: Trial, other: Trial | None) -> Tile | None:
    if shipped.latency is None or other is None:
        return None
    tone = {"faster": "good", "slower": "bad"}.get(compared(shipped.latency), "")
    detail = f"95 % interval {ends(shipped.latency.speedup)}"
    return Tile("Speed-up", f"{middle(shipped.latency.speedup)}x", detail, tone)


def _drop(shipped: Trial) -> Tile | None:
    accuracy = shipped.accuracy
    if accuracy is None or math.isnan(accuracy.drop.value):
        return None
    detail = f"95 % interval {ends(accuracy.drop)}; original {original_accuracy(accuracy)}"
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
