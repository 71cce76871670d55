"""The first line of a report: what did not hold, how fast it is, and what it lost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlc.figures import ends, middle, short, significant
from mlc.judging.nouns import DONE, INCONCLUSIVE, MET, MISSED, SLOWER, UNMODIFIED, Verdict
from mlc.judging.verdicts import compared
from mlc.measuring import Latency, Trial
from mlc.runtimes.session import SOFTWARE

NEAR = 10.0
"""The signal to noise ratio in dB below which outputs are not said to agree."""


def speedup_of(trial: Trial) -> float:
    """Return how many times as fast as the baseline a trial is; 0 where its speed was not measured."""
    return trial.latency.speedup.value if trial.latency else 0.0


def speed_sentence(trials: Sequence[Trial], trial: Trial, requested: Sequence[str]) -> tuple[str, str]:
    """Return the outcome as far as speed decides it, and its sentence."""
    if trial is trials[0]:
        return UNMODIFIED, _unmodified_sentence(trials[1:])
    if trial.latency is None:
        return DONE, f"{trial.candidate.name}: written; the speed was not measured."
    as_asked = f" Written all the same, asked for: {', '.join(requested)}." if requested else ""
    figure = f"{middle(trial.latency.speedup)} times"
    interval = f"95 % interval {ends(trial.latency.speedup)}"
    how = compared(trial.latency)
    if how == "faster":
        return DONE, f"{trial.candidate.name}: {figure} as fast as the unmodified export ({interval})."
    if how == "slower":
        return SLOWER, f"Slower than the unmodified export: {figure} its speed ({interval}).{as_asked}"
    noise = _noise_text(trial.latency)
    return (
        DONE,
        f"Not shown to be faster than the unmodified export: {figure} its speed ({interval}; {noise}).{as_asked}",
    )


def device_sentence(trial: Trial) -> str:
    """Say where speed was measured, where a figure could be taken for that of other hardware."""
    software = trial.placement is not None and trial.placement.device.startswith(SOFTWARE)
    return "Its speed is that of a software device, not of a GPU." if software else ""


def _unmodified_sentence(candidates: Sequence[Trial]) -> str:
    best = max(candidates, key=speedup_of, default=None)
    if best is None:
        return "No pass changed the model: the unmodified export is written."
    if best.latency is None:
        return "The unmodified export is written; the speed of the passes was not measured."
    figure = f"{middle(best.latency.speedup)} times as fast, 95 % interval {ends(best.latency.speedup)}"
    if compared(best.latency) == "slower":
        return f"The passes made the model slower ({figure}): the unmodified export is written."
    return (
        f"No pass made the model faster beyond the noise ({figure}; {_noise_text(best.latency)}): "
        "the unmodified export is written."
    )


def _noise_text(latency: Latency) -> str:
    return f"the export beside itself {ends(latency.noise)}"


def limits_sentence(verdicts: Sequence[Verdict], limits: Sequence[Verdict]) -> str:
    """Name what failed of all verdicts, one alone with its figures; or say that the limits are met, if any are set."""
    failed = [each for each in verdicts if each.outcome != MET]
    if len(failed) == 1:
        return f"{failed[0].outcome.capitalize()}: {_detailed(failed[0])}."
    sentences = []
    for outcome in (MISSED, INCONCLUSIVE):
        names = [each.limit for each in failed if each.outcome == outcome]
        sentences += [f"{outcome.capitalize()}: {joined(names)}."] if names else []
    if sentences or not limits:
        return " ".join(sentences)
    return "The limit is met." if len(limits) == 1 else "All limits are met."


def _detailed(verdict: Verdict) -> str:
    """Return one limit with its figures; of several problems the first."""
    first, more, _ = verdict.measured.partition("; ")
    return f"{verdict.limit} {verdict.asked}, measured {first}{' and more, see below' if more else ''}"


def joined(names: Sequence[str]) -> str:
    """Return ``a``, ``a and b``, or ``a, b and c``."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def accuracy_sentence(trial: Trial, verdicts: Sequence[Verdict], *, written: bool) -> str:
    """Say the drop, unless a verdict that failed has said it already."""
    said = any(verdict.limit == "max-drop" and verdict.outcome != MET for verdict in verdicts)
    if trial.accuracy is None:
        if written or not trial.agreement or any(output.nonfinite for output in trial.agreement):
            return ""
        worst = min(output.sqnr for output in trial.agreement)
        if worst == math.inf:
            return "The outputs equal the source's."
        if worst < NEAR:
            far = f", {significant(worst)} dB at worst" if math.isfinite(worst) else ""
            return f"The outputs do not agree with the source's{far}."
        return f"The outputs agree with the source's at {significant(worst)} dB or better."
    if said or math.isnan(trial.accuracy.drop.value):
        return ""
    return f"The drop of {trial.accuracy.metric} is {short(trial.accuracy.drop)}."
