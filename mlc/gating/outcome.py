"""Is the new run worse than the old one? What a pipeline asks before it lets a change pass."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.figures import megabytes, percent
from mlc.gating.accuracy import accuracy_finding
from mlc.gating.latency import latency_finding
from mlc.gating.nouns import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, Finding, Gate
from mlc.judging import INCONCLUSIVE, MISSED, Report
from mlc.judging.sentences import joined

SMALL = 0.01
"""Share by which a size may grow or shrink without being called different: names and constants of an exporter."""


def gate(old: Report, new: Report, names: tuple[str, str] = ("old", "new")) -> Gate:
    """Compare what the new run wrote with what the old one wrote: accuracy, latency, size."""
    findings = (accuracy_finding(old, new), latency_finding(old, new), size_finding(old, new))
    verdicts = {finding.verdict for finding in findings}
    outcome = next(each for each in (WORSE, NOT_KNOWN, BETTER, NO_DIFFERENT) if each in verdicts)
    notes = [
        f"{name} by itself: {report.first_line}"
        for name, report in zip(names, (old, new), strict=True)
        if report.outcome in {MISSED, INCONCLUSIVE}
    ]
    return Gate(*names, findings, outcome, first_line(findings), tuple(notes))


def exit_code(judged: Gate, *, strict: bool = False) -> int:
    """Return 1 where a figure got worse, or with ``strict`` where one could not be compared; else 0."""
    return int(judged.outcome == WORSE or (strict and judged.outcome == NOT_KNOWN))


def size_finding(old: Report, new: Report) -> Finding:
    """Compare the sizes, which are exact."""
    before, now = (report.trial.size_bytes if report.trial else 0 for report in (old, new))
    texts = (megabytes(before), megabytes(now))
    if not before or not now:
        return Finding("size", NOT_KNOWN, *texts, "", "the size was not measured in both runs")
    verdict = WORSE if now > before * (1 + SMALL) else BETTER if now < before * (1 - SMALL) else NO_DIFFERENT
    change = f"{percent(now / before)} of the old"
    return Finding("size", verdict, *texts, change, f"exact; within {percent(SMALL)} it is called no different")


def first_line(findings: Sequence[Finding]) -> str:
    """Say what got worse, what could not be compared, and what got better."""
    worse, unknown, better = (
        [finding for finding in findings if finding.verdict == verdict] for verdict in (WORSE, NOT_KNOWN, BETTER)
    )
    sentences = [f"Worse: {_figures(worse)}." if worse else "" if unknown else "Nothing got worse."]
    sentences += [f"Not comparable: {joined([each.figure for each in unknown])}."] if unknown else []
    sentences += ["The rest did not get worse."] if unknown and not worse and len(unknown) < len(findings) else []
    sentences += [f"Better: {_figures(better)}."] if better else []
    return " ".join(sentence for sentence in sentences if sentence)


def _figures(findings: Sequence[Finding]) -> str:
    return joined([f"{each.figure}, {each.change}" if len(findings) == 1 else each.figure for each in findings])
