"""Did the latency get worse?"""

from __future__ import annotations

import math
from dataclasses import replace

from mlc.figures import milliseconds, short, significant, times
from mlc.gating.common import TEXTS, same
from mlc.gating.intervals import joint_noise, ratio
from mlc.gating.nouns import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, Finding
from mlc.judging import Report, noise_band
from mlc.measuring import Latency
from mlc.types import Interval

FIGURE = "latency"


def latency_finding(old: Report, new: Report) -> Finding:
    """Compare the latencies of what two runs wrote, where both were measured on one target at the same sizes."""
    before, now = (report.trial.latency if report.trial else None for report in (old, new))
    if before is None or now is None:
        which = " and ".join(name for name, each in (("old", before), ("new", now)) if each is None)
        return _unknown(before, now, f"the latency was not measured in the {which} run")
    for name, word in (("target", "on"), ("sizes", "at")):
        if not same(name, old, new):
            return _unknown(before, now, f"measured {word} {_both(name, old, new)}")
    return _compared(old, new, before, now)


def _compared(old: Report, new: Report, before: Latency, now: Latency) -> Finding:
    """Compare by what the runs share.

    Milliseconds drift from run to run and mean nothing between machines, so the speed-ups over one baseline are
    compared, each of which was paired within its run. Where the baseline may have moved as well, since source or
    runtime changed, the milliseconds are asked too; without one baseline there are only they, on one machine.
    """
    shared = {name for name in ("machine", "runtime", "source", "baseline") if same(name, old, new)}
    drift = _drift(old, new)
    if {"machine", "runtime", "source", "baseline"} == shared:
        how = "the speed-ups over one unmodified export are compared, so that what drifted between the runs cancels"
        return _by_speedup(before, now, how, drift)
    if {"machine", "baseline"} <= shared:
        runtimes = f"the runtimes differ ({_both('runtime', old, new)})"
        sources = "the sources differ, and their unmodified exports have the same operators"
        return _by_both(before, now, sources if "runtime" in shared else runtimes, drift)
    if {"machine", "runtime"} <= shared:
        return _by_p50(before, now)
    other = f"the machines differ ({_both('machine', old, new)})"
    if "baseline" in shared:
        how = f"{other}, so the speed-ups over one unmodified export are compared; on one machine they may differ"
        return _by_speedup(before, now, how)
    other = f"the runtimes differ ({_both('runtime', old, new)})" if "machine" in shared else other
    return _unknown(before, now, f"{other}, and so do the unmodified exports: nothing is left to compare by")


def _by_speedup(before: Latency, now: Latency, how: str, drift: float = 1.0) -> Finding:
    """Compare the speed-ups over one baseline: a ratio of ratios, beyond the noise of both runs.

    The baseline is in both runs, a pair of equals: a loss that is no more than what it drifted by between them is not
    known to be the model's. A busy machine slows integers and floats by different factors.
    """
    change = ratio(before.speedup, now.speedup)
    noise = joint_noise(*(noise_band(each.noise)[1] for each in (before, now)))
    if change is None or noise == math.inf:
        return _unknown(before, now, "the interval of a speed-up has no end")
    verdict = _verdict(change, noise)
    if verdict != _verdict(change, max(noise, drift)):
        verdict = NOT_KNOWN if verdict == WORSE else NO_DIFFERENT
        how = f"the unmodified export itself is {significant(drift)} times as slow in one run as in the other, and the"
        how = f"{how} speed-ups over it differ by no more than that: run both again on a quiet machine"
    texts = times(before.speedup), times(now.speedup)
    return Finding(FIGURE, verdict, *texts, _text(change), how, change)


def _by_p50(before: Latency, now: Latency) -> Finding:
    """Compare the medians, each as uncertain as a single run: nothing else tells how far a machine drifts."""
    old, new = (_p50_interval(each) for each in (before, now))
    change = ratio(new, old)
    if change is None:
        return _unknown(before, now, "the noise of a run has no end")
    texts = milliseconds(before.p50), milliseconds(now.p50)
    how = (
        "the unmodified exports differ, so p50 is compared on one machine, each as uncertain as single runs are; a "
        "machine can drift further"
    )
    return Finding(FIGURE, _verdict(change, 1.0), *texts, _text(change), how, change)


def _by_both(before: Latency, now: Latency, changed: str, drift: float) -> Finding:
    """Compare by speed-up and by p50: worse or better where both say so, not known where they part."""
    by_speedup, by_p50 = _by_speedup(before, now, "", drift), _by_p50(before, now)
    if NOT_KNOWN in {by_speedup.verdict, by_p50.verdict}:
        return by_speedup if by_speedup.verdict == NOT_KNOWN else by_p50
    said = f"the speed-up is {by_speedup.verdict} ({by_speedup.change}) and p50 {by_p50.verdict} ({by_p50.change})"
    if by_speedup.verdict != by_p50.verdict:
        return _unknown(before, now, f"{changed}: {said}; run the old one again to know")
    return replace(by_speedup, sentence=f"{changed}: {said}")


def _drift(old: Report, new: Report) -> float:
    """Return the factor between the baseline's medians of two runs, at least 1."""
    before, now = (report.baseline.latency if report.baseline else None for report in (old, new))
    if before is None or now is None or not before.p50 > 0 < now.p50:
        return 1.0
    return max(before.p50 / now.p50, now.p50 / before.p50)


def _both(name: str, old: Report, new: Report) -> str:
    return " and now ".join(TEXTS[name](report) for report in (old, new))


def _p50_interval(latency: Latency) -> Interval:
    """Return the median, down and up by the factor of the ninth decile, or of the noise where that is larger."""
    factor = max(noise_band(latency.noise)[1], latency.p90 / latency.p50 if latency.p50 > 0 else math.inf)
    return Interval(latency.p50, latency.p50 / factor, latency.p50 * factor)


def _verdict(change: Interval, noise: float) -> str:
    if change.high < 1 / noise:
        return WORSE
    return BETTER if change.low > noise else NO_DIFFERENT


def _text(change: Interval) -> str:
    return f"{short(change)} times as fast"


def _unknown(before: Latency | None, now: Latency | None, why: str) -> Finding:
    old, new = (milliseconds(each.p50) if each else "not measured" for each in (before, now))
    return Finding(FIGURE, NOT_KNOWN, old, new, "", why)
