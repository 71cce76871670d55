"""Did the accuracy get worse?"""

from __future__ import annotations

import math

from mlc.figures import counted, decibels, known, short
from mlc.gating.common import TEXTS, same
from mlc.gating.intervals import difference
from mlc.gating.nouns import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, Finding
from mlc.judging import Report
from mlc.measuring import Accuracy, Trial
from mlc.types import Interval

FIGURE = "accuracy"


def accuracy_finding(old: Report, new: Report) -> Finding:
    """Compare the accuracies of what two runs wrote, where metric and samples are the same.

    From one original the two losses are compared, which are paired by sample and so know more than the values do.
    """
    before, now = (report.trial.accuracy if report.trial else None for report in (old, new))
    if before is None or now is None:
        return _unknown(before, now, _unmeasured(old, new))
    problem = _incomparable(old, new, before, now)
    loss, how = _loss(old, new, before, now)
    if not problem and not known(loss):
        problem = f"the interval of {now.metric} is not known: too few samples differ"
    if problem:
        return _unknown(before, now, problem)
    verdict = WORSE if loss.low > 0 else BETTER if loss.high < 0 else NO_DIFFERENT
    sentence = f"{now.metric} on the same {counted(now.samples, 'sample')}; {how}"
    return Finding(FIGURE, verdict, short(before.value), short(now.value), f"loss {short(loss)}", sentence, loss)


def _incomparable(old: Report, new: Report, before: Accuracy, now: Accuracy) -> str:
    """Return why two accuracies do not compare, or nothing."""
    if not same("metric", old, new):
        names = (before.metric, now.metric)
        return f"the metrics differ: {names[0]} and {names[1]}" if names[0] != names[1] else "the metric turned round"
    found = same("data", old, new)
    if found is None:
        return "nothing says that both were evaluated on the same samples"
    if not found:
        return f"they were evaluated on other samples: {TEXTS['data'](old)} and {TEXTS['data'](new)}"
    return ""


def _loss(old: Report, new: Report, before: Accuracy, now: Accuracy) -> tuple[Interval, str]:
    """Return what was lost from the old run to the new one, and how that is known."""
    one_original = same("source", old, new)
    paired = one_original and not any(math.isnan(each.drop.value) for each in (before, now))
    by_sample = difference(before.drop, now.drop)
    if paired and known(by_sample):
        return by_sample, "the losses against one original, each paired by sample, are compared"
    loss = difference(before.value, now.value)
    if now.higher_is_better:
        loss = Interval(-loss.value, -loss.high, -loss.low)
    if not one_original:
        why = "the originals differ"
    elif paired and loss.low <= 0 <= loss.high:
        return by_sample, ""
    elif paired:
        why = "too few samples differ to tell how far a loss may reach"
    else:
        why = f"{now.metric} has no loss against the original"
    return loss, f"{why}, so the values are compared, which are not paired"


def _unmeasured(old: Report, new: Report) -> str:
    lacking = [name for name, each in (("old", old), ("new", new)) if not (each.trial and each.trial.accuracy)]
    where = "either run" if len(lacking) > 1 else f"the {lacking[0]} run"
    agreements = " and now ".join(_agreement(report.trial) for report in (old, new))
    return f"no accuracy was measured in {where}; the outputs agree with the original's at {agreements}"


def _agreement(trial: Trial | None) -> str:
    ratios = [output.sqnr for output in trial.agreement] if trial else []
    return decibels(min(ratios)).replace("equal", "infinite dB") if ratios else "a ratio that is not known"


def _unknown(before: Accuracy | None, now: Accuracy | None, why: str) -> Finding:
    old, new = (short(each.value) if each else "not measured" for each in (before, now))
    return Finding(FIGURE, NOT_KNOWN, old, new, "", why)
