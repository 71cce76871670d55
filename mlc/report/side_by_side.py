"""Several runs side by side: the same figures, one column a run, and which of them compare at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlc.figures import megabytes, milliseconds
from mlc.gating import TEXTS, Aspect, aspect
from mlc.judging import Report
from mlc.judging.sentences import joined
from mlc.report.cells import (
    UNKNOWN,
    accuracy_text,
    drop_text,
    load_text,
    memory_text,
    noise_text,
    p50_text,
    speedup_text,
)
from mlc.report.sheet import Sheet
from mlc.report.table import table
from mlc.types import Interval

SPEED = ("machine", "runtime", "target", "sizes")
QUALITY = ("data", "metric")


class Row(NamedTuple):
    """A figure of what a run wrote: as text, unrounded, and what runs have to share before it compares."""

    name: str
    text: Callable[[Report], str]
    value: Callable[[Report], Interval | float | None]
    needs: tuple[str, ...] = ()


ROWS = (
    Row("accuracy", lambda run: _of(run, accuracy_text), lambda run: _accuracy(run, "value"), QUALITY),
    Row("drop", lambda run: _of(run, drop_text), lambda run: _accuracy(run, "drop"), (*QUALITY, "source")),
    Row("latency p50", lambda run: _of(run, p50_text), lambda run: _latency(run, "p50"), SPEED),
    Row("speed-up", lambda run: _of(run, speedup_text), lambda run: _latency(run, "speedup"), (*SPEED, "baseline")),
    Row("noise, export beside itself", lambda run: _of(run, noise_text), lambda run: _latency(run, "noise"), SPEED),
    Row(
        "original, alone",
        lambda run: f"{milliseconds(run.eager[0])} ({run.eager_name})" if run.eager else UNKNOWN,
        lambda run: run.eager[0] if run.eager else None,
        (*SPEED, "source"),
    ),
    Row(
        "size",
        lambda run: megabytes(run.trial.size_bytes) if run.trial else UNKNOWN,
        lambda run: run.trial.size_bytes if run.trial else None,
    ),
    Row("peak memory", lambda run: _of(run, memory_text), lambda run: _trial(run, "peak_memory_mb"), SPEED),
    Row("load", lambda run: _of(run, load_text), lambda run: _trial(run, "load_seconds"), SPEED),
)


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of every run; ``differs`` and ``unknown`` name what keeps it from being compared."""

    name: str
    texts: tuple[str, ...]
    values: tuple[Interval | float | None, ...]
    differs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Several runs: where they were read from, what they say first, what they share, and their figures."""

    places: tuple[str, ...]
    first_lines: tuple[str, ...]
    outcomes: tuple[str, ...]
    written: tuple[str, ...]
    shared: tuple[Aspect, ...]
    figures: tuple[ComparedFigure, ...]
    first_line: str


def compare_runs(places: Sequence[str], reports: Sequence[Report]) -> Comparison:
    """Put what several runs wrote beside each other; a figure that none of them measured is left out."""
    shared = {name: aspect(name, reports) for name in TEXTS}
    rows = [row for row in ROWS if any(row.value(report) is not None for report in reports)]
    return Comparison(
        places=tuple(places),
        first_lines=tuple(report.first_line for report in reports),
        outcomes=tuple(report.outcome for report in reports),
        written=tuple(report.trial.candidate.name if report.trial else UNKNOWN for report in reports),
        shared=tuple(shared.values()),
        figures=tuple(_figure(row, reports, shared) for row in rows),
        first_line=_first_line(len(reports), tuple(shared.values())),
    )


def sheet(compared: Comparison) -> Sheet:
    """Return a comparison as tables."""
    columns = len(compared.places)
    rows = [("written", *compared.written, ""), ("outcome", *compared.outcomes, "")]
    rows += [(figure.name, *figure.texts, _compares(figure)) for figure in compared.figures]
    header = ("", *compared.places)
    figures = table("Figures", "t" * (columns + 2), (*header, "compares"), rows)
    words = {True: "same", False: "differs", None: "not known"}
    shared = [(each.name, *each.texts, words[each.same]) for each in compared.shared]
    differ = any(each.same is False for each in compared.shared)
    return Sheet(
        title=f"mlc report: {', '.join(compared.places)}",
        state="Side by side",
        tone="warn" if differ else "",
        first_line=compared.first_line,
        tables=(figures, table("What the runs share", "t" * (columns + 2), (*header, ""), shared)),
        sentences=tuple(f"{place}: {line}" for place, line in zip(compared.places, compared.first_lines, strict=True)),
    )


def _figure(row: Row, reports: Sequence[Report], shared: dict[str, Aspect]) -> ComparedFigure:
    return ComparedFigure(
        name=row.name,
        texts=tuple(row.text(report) for report in reports),
        values=tuple(row.value(report) for report in reports),
        differs=tuple(name for name in row.needs if shared[name].same is False),
        unknown=tuple(name for name in row.needs if shared[name].same is None),
    )


def _compares(figure: ComparedFigure) -> str:
    if figure.differs:
        return f"no: other {joined(figure.differs)}"
    return f"not known: {joined(figure.unknown)}" if figure.unknown else "yes"


def _first_line(count: int, shared: Sequence[Aspect]) -> str:
    named = {found: [each.name for each in shared if each.same is found] for found in (True, False, None)}
    if named[False]:
        return f"{count} runs that differ in {joined(named[False])}: only the figures that are marked so compare."
    if named[None]:
        return f"{count} runs; whether they share {joined(named[None])} is not known: not all of their figures compare."
    return f"{count} runs that share {joined(named[True])}: their figures compare."


def _of(report: Report, text: Callable[..., str]) -> str:
    return text(report.trial) if report.trial else UNKNOWN


def _trial(report: Report, name: str) -> float | None:
    return getattr(report.trial, name) if report.trial else None


def _accuracy(report: Report, name: str) -> Interval | None:
    return getattr(report.trial.accuracy, name) if report.trial and report.trial.accuracy else None


def _latency(report: Report, name: str) -> Interval | float | None:
    return getattr(report.trial.latency, name) if report.trial and report.trial.latency else None
