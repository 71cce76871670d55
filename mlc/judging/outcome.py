"""What ships, and pass or fail: the user's limits against what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.errors import UsageError
from mlc.grammar import nearest
from mlc.judging.nouns import DONE, INCONCLUSIVE, MISSED, Judgement, Report, Verdict
from mlc.judging.sentences import (
    accuracy_sentence,
    device_sentence,
    limits_sentence,
    speed_sentence,
    speedup_of,
)
from mlc.judging.verdicts import compared, verdicts_on
from mlc.measuring import Trial
from mlc.types import Limits

NO_LIMITS = Limits()


def choose(trials: Sequence[Trial], requested_lossy: bool = False) -> str:
    """Return the name of the trial that ships; the baseline, the unmodified export, is the first of ``trials``.

    What was asked for by name (``requested_lossy``), the last, ships whatever its speed. Otherwise the fastest of those
    that are faster than the baseline beyond the noise, or else the baseline.
    """
    baseline, *candidates = trials
    if requested_lossy and candidates:
        return candidates[-1].candidate.name
    faster = [trial for trial in candidates if trial.latency and compared(trial.latency) == "faster"]
    return max(faster, key=speedup_of, default=baseline).candidate.name


def judge(
    trials: Sequence[Trial],
    limits: Limits = NO_LIMITS,
    *,
    shipped: str = "",
    requested: Sequence[str] = (),
    headlines: Sequence[str] = (),
    requirements: Sequence[Verdict] = (),
    written: bool = True,
) -> Judgement:
    """Judge the trial called ``shipped`` (by default the one that ``choose`` picks) against the limits.

    ``requested`` is what was asked for by name, ``headlines`` what the passes of it want said; ``requirements`` are
    verdicts on what is not a limit of the user's (see ``requirement``); ``written`` is false where nothing ships, as in
    ``mlc validate``. Raises UsageError without trials, and for a name that none of them has.
    """
    if not trials:
        raise UsageError("nothing was measured, so nothing can be judged", "give the trials of mlc.measure")
    name = shipped or choose(trials, bool(requested))
    named = {trial.candidate.name: trial for trial in trials}
    if name not in named:
        raise UsageError(f"no trial is called {name!r}", nearest(name, named))
    trial = named[name]
    asked = verdicts_on(trial, limits)
    verdicts = (*requirements, *asked)
    outcomes = {verdict.outcome for verdict in verdicts}
    outcome, speed = speed_sentence(trials, trial, requested) if written else (DONE, "")
    failed = next((worse for worse in (MISSED, INCONCLUSIVE) if worse in outcomes), None)
    limited, accuracy = limits_sentence(verdicts, asked), accuracy_sentence(trial, verdicts, written=written)
    device = device_sentence(trial)
    said = (speed, *(f"{headline[:1].upper()}{headline[1:]}." for headline in headlines), device, accuracy)
    told = (limited, *said) if failed else (*said, limited)
    line = " ".join(text for text in told if text)
    return Judgement(verdicts, failed or outcome, line or "Nothing was measured, and no limit was set.")


def exit_code(report: Report, strict: bool = False) -> int:
    """Return 1 where a limit was missed, or with ``strict`` where one is inconclusive; else 0."""
    outcomes = {report.outcome, *(verdict.outcome for verdict in report.verdicts)}
    return int(MISSED in outcomes or (strict and INCONCLUSIVE in outcomes))
