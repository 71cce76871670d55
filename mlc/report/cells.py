"""Single figures of a trial as text, and which trials the report is about."""

from __future__ import annotations

import math

from mlc.figures import (
    ends,
    milliseconds,
    seconds,
    short,
    significant,
    supported,
    times,
)
from mlc.judging import Report
from mlc.measuring import Accuracy, Trial
from mlc.report.table import plain

UNKNOWN = "not measured"
NONE = "has none"
"""In the place of the drop of a metric whose best value is infinite."""
BASELINE = "unmodified export"
LOSSY = "lossy"


def shown_trials(report: Report) -> list[tuple[str, Trial]]:
    """Return the two trials that matter, with their headings: the baseline, and what ships or came nearest to it."""
    baseline, shipped = report.baseline, report.trial
    if shipped is None:
        return []
    if baseline is None:
        return [(shipped.candidate.name, shipped)]
    if shipped is not baseline:
        return [(BASELINE, baseline), (f"{shipped.candidate.name} (written)", shipped)]
    rest = [trial for trial in report.trials[1:] if trial.latency]
    best = max(rest, key=lambda trial: trial.latency.speedup.value if trial.latency else 0.0, default=None)
    return [(f"{BASELINE} (written)", baseline)] + ([(f"{best.candidate.name} (not written)", best)] if best else [])


def accuracy_text(trial: Trial) -> str:
    """Return the metric with its interval."""
    return short(trial.accuracy.value) if trial.accuracy else UNKNOWN


def original_accuracy(accuracy: Accuracy) -> str:
    """Return the original's metric with the digits that the sample supports."""
    return supported(accuracy.original, (accuracy.value.high - accuracy.value.low) / 2)


def drop_text(trial: Trial) -> str:
    """Return the loss against the original with its interval."""
    if trial.accuracy is None:
        return UNKNOWN
    return NONE if math.isnan(trial.accuracy.drop.value) else short(trial.accuracy.drop)


def p50_text(trial: Trial) -> str:
    """Return the median latency."""
    return milliseconds(trial.latency.p50) if trial.latency else UNKNOWN


def speedup_text(trial: Trial, *, baseline: bool = False) -> str:
    """Return the paired speed-up with its interval; the baseline is the measure of the others."""
    if trial.latency is None:
        return UNKNOWN
    return "1 (baseline)" if baseline else times(trial.latency.speedup)


def share_text(trial: Trial) -> str:
    """Return the share of the machine's measured peak."""
    arithmetic = trial.latency.arithmetic if trial.latency else None
    return f"{significant(arithmetic.share * 100, 2)} %" if arithmetic else "not known"


def noise_text(trial: Trial) -> str:
    """Return the interval of the baseline beside itself."""
    return ends(trial.latency.noise) if trial.latency else UNKNOWN


def memory_text(trial: Trial) -> str:
    """Return the peak memory of a fresh process."""
    return UNKNOWN if trial.peak_memory_mb is None else f"{significant(trial.peak_memory_mb)} MB"


def load_text(trial: Trial) -> str:
    """Return the load time in a fresh process."""
    return UNKNOWN if trial.load_seconds is None else seconds(trial.load_seconds)


def title(report: Report, source: str) -> str:
    """Return what the report is about: quantized is what a lossy pass asked for by name has changed."""
    quantized = any(step.exactness == LOSSY and step.requested and step.sites for step in report.steps)
    return f"mlc {'quantize' if quantized else report.command}: {source}"


def notes(report: Report) -> list[str]:
    """Return all that the reader should know besides: of the source, the run and what was measured."""
    of_trials = [f"{trial.candidate.name}: {note}" for trial in report.trials for note in trial.notes]
    return [plain(note) for note in (*report.origin.notes, *report.notes, *of_trials)]
