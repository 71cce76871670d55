"""Pass or fail: the user's limits against what was measured, and everything that the report says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mlc.artifact import Origin, Step
from mlc.compare import Check
from mlc.errors import UsageError
from mlc.figures import ends, measured, megabytes, middle, milliseconds, short, significant
from mlc.grammar import nearest
from mlc.layer_errors import LayerError
from mlc.measuring import Accuracy, Latency, Trial
from mlc.recipe import Recipe
from mlc.types import Drop, Interval, Limits, Machine, Plan, Signature

MET, MISSED, INCONCLUSIVE = "met", "missed", "inconclusive"
"""Outcomes of a verdict; the last two are outcomes of a run too."""

DONE, SLOWER, UNMODIFIED = "done", "slower", "unmodified"
"""Outcomes of a run: as asked; slower, but asked for by name; the unmodified export, since nothing was faster."""

NO_LIMITS = Limits()


@dataclass(frozen=True)
class Verdict:
    """One limit: what was asked, what was measured, and met, missed or inconclusive."""

    limit: str
    asked: str
    measured: str
    outcome: str
    interval: Interval | None = None


@dataclass(frozen=True)
class Report:
    """Everything that is known at the end of a run, computed from the written artifact.

    ``trials`` are the baseline first, then the candidates; ``shipped`` names the one that was written. ``first_line``
    is what a hurried reader gets. ``command`` is ``compile``, or ``validate``, which writes nothing. ``recipe_text`` is
    the recipe.toml as written, ``loading`` the lines that run the model with plain onnxruntime. ``eager`` is p50, p90
    and p99 in milliseconds of the torch module, alone in mlc's own process.
    """

    recipe: Recipe
    origin: Origin
    signature: Signature
    steps: tuple[Step, ...]
    trials: tuple[Trial, ...]
    shipped: str
    verdicts: tuple[Verdict, ...] = ()
    outcome: str = DONE
    first_line: str = ""
    checks: tuple[Check, ...] = ()
    layers: tuple[LayerError, ...] = ()
    plan: Plan | None = None
    saturation: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    machine: Machine | None = None
    loading: str = ""
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    directory: str = ""
    command: str = "compile"
    recipe_text: str = ""
    eager: tuple[float, float, float] | None = None


class Judgement(NamedTuple):
    """A verdict for each limit, the outcome of the run, and the sentence that says it."""

    verdicts: tuple[Verdict, ...]
    outcome: str
    first_line: str


def choose(trials: Sequence[Trial], requested_lossy: bool = False, *, asked: str = "") -> str:
    """Return the name of the trial that ships; the baseline, the unmodified export, is the first of ``trials``.

    What was asked for by name (``requested_lossy``) ships whatever its speed: the trial called ``asked``, by default
    the last. Otherwise the fastest of those that are faster than the baseline beyond the noise, or else the baseline.
    """
    baseline, *candidates = trials
    if requested_lossy and candidates:
        return asked or candidates[-1].candidate.name
    faster = [trial for trial in candidates if trial.latency and compared(trial.latency) == "faster"]
    return max(faster, key=_speedup, default=baseline).candidate.name


def judge(
    trials: Sequence[Trial],
    limits: Limits = NO_LIMITS,
    *,
    shipped: str = "",
    requested: Sequence[str] = (),
    requirements: Sequence[Verdict] = (),
    written: bool = True,
) -> Judgement:
    """Judge the trial called ``shipped`` (by default the one that ``choose`` picks) against the limits.

    ``requested`` names the passes asked for by name; ``requirements`` are verdicts on what is not a limit of the user's
    (see ``requirement``); ``written`` is false where nothing ships, as in ``mlc validate``. Raises UsageError without
    trials, and for a name that none of them has.
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
    outcome, sentence = _speed(trials, trial, requested) if written else (DONE, "")
    outcome = next((worse for worse in (MISSED, INCONCLUSIVE) if worse in outcomes), outcome)
    sentences = (_limits_sentence(verdicts, asked), sentence, _accuracy_sentence(trial, verdicts, written=written))
    line = " ".join(text for text in _worst_first(sentences, outcomes) if text)
    return Judgement(verdicts, outcome, line or "Nothing was measured, and no limit was set.")


def exit_code(report: Report, strict: bool = False) -> int:
    """Return 1 where a limit was missed, or with ``strict`` where one is inconclusive; else 0."""
    outcomes = {report.outcome, *(verdict.outcome for verdict in report.verdicts)}
    return int(MISSED in outcomes or (strict and INCONCLUSIVE in outcomes))


def requirement(name: str, asked: str, problems: Sequence[str]) -> Verdict:
    """Return a verdict on what must hold without being a limit, such as an equal interface: met without problems."""
    return Verdict(name, asked, "; ".join(problems) or "holds", MISSED if problems else MET)


def noise_band(noise: Interval) -> tuple[float, float]:
    """Return the ratios between which nothing is called different: the A/A interval's farther end, both ways."""
    factor = max(noise.high, 1 / noise.low if noise.low > 0 else float("inf"), 1.0)
    return 1 / factor, factor


def compared(latency: Latency) -> str:
    """Return ``faster`` or ``slower`` where the whole interval lies beyond the A/A noise, else ``no different``."""
    low, high = noise_band(latency.noise)
    if latency.speedup.low > high:
        return "faster"
    return "slower" if latency.speedup.high < low else "no different"


def verdicts_on(trial: Trial, limits: Limits) -> tuple[Verdict, ...]:
    """Return one verdict for each limit that is set; one whose figure was not measured is inconclusive."""
    verdicts = []
    if limits.max_drop is not None:
        verdicts.append(_drop_verdict(limits.max_drop, trial.accuracy))
    if limits.min_speedup is not None:
        verdicts.append(_speedup_verdict(limits.min_speedup, trial.latency))
    if limits.max_latency is not None:
        verdicts.append(_latency_verdict(limits.max_latency, trial.latency))
    if limits.max_size is not None:
        within = trial.size_bytes <= limits.max_size * 1e6
        asked = f"at most {limits.max_size:g} MB"
        verdicts.append(Verdict("max-size", asked, megabytes(trial.size_bytes), MET if within else MISSED))
    return tuple(verdicts)


def allowed_drop(drop: Drop, original: float) -> float:
    """Return the accepted loss in the metric's units."""
    return drop.value * abs(original) if drop.relative else drop.value


def _drop_verdict(drop: Drop, accuracy: Accuracy | None) -> Verdict:
    if accuracy is None:
        return Verdict("max-drop", f"at most {drop}", "not measured", INCONCLUSIVE)
    limit = allowed_drop(drop, accuracy.original)
    asked = f"at most {drop}" + (f" of {significant(accuracy.original, 4)}" if drop.relative else "")
    figure = f"{accuracy.metric} drop {measured(accuracy.drop)}"
    return Verdict("max-drop", asked, figure, at_most(accuracy.drop, limit), accuracy.drop)


def _speedup_verdict(limit: float, latency: Latency | None) -> Verdict:
    asked = f"at least {limit:g} times as fast"
    if latency is None:
        return Verdict("min-speedup", asked, "not measured", INCONCLUSIVE)
    speedup = latency.speedup
    outcome = MET if speedup.low >= limit else MISSED if speedup.high < limit else INCONCLUSIVE
    return Verdict("min-speedup", asked, measured(speedup, " times"), outcome, speedup)


def _latency_verdict(limit: float, latency: Latency | None) -> Verdict:
    """Judge the p50; it is as uncertain as the baseline beside itself was, so the A/A noise is its interval."""
    asked = f"at most {limit:g} ms"
    if latency is None:
        return Verdict("max-latency", asked, "not measured", INCONCLUSIVE)
    low, high = noise_band(latency.noise)
    interval = Interval(latency.p50, latency.p50 * low, latency.p50 * high)
    figure = f"p50 {milliseconds(latency.p50)} ({milliseconds(interval.low)} to {milliseconds(interval.high)})"
    return Verdict("max-latency", asked, figure, at_most(interval, limit), interval)


def at_most(interval: Interval, limit: float) -> str:
    """Return met where the whole interval is within the limit, missed where all of it is above, else inconclusive."""
    if interval.high <= limit:
        return MET
    return MISSED if interval.low > limit else INCONCLUSIVE


def _speedup(trial: Trial) -> float:
    return trial.latency.speedup.value if trial.latency else 0.0


def _speed(trials: Sequence[Trial], trial: Trial, requested: Sequence[str]) -> tuple[str, str]:
    """Return the outcome as far as speed decides it, and its sentence."""
    if trial is trials[0]:
        return UNMODIFIED, _unmodified_sentence(trials[1:])
    if trial.latency is None:
        return DONE, f"{trial.candidate.name}: written; the speed was not measured."
    by_name = f" Written all the same, asked for by name: {', '.join(requested)}." if requested else ""
    figure = f"{middle(trial.latency.speedup)} times"
    interval = f"95 % interval {ends(trial.latency.speedup)}"
    how = compared(trial.latency)
    if how == "faster":
        return DONE, f"{trial.candidate.name}: {figure} as fast as the unmodified export ({interval})."
    if how == "slower":
        return SLOWER, f"Slower than the unmodified export: {figure} its speed ({interval}).{by_name}"
    noise = _noise_text(trial.latency)
    return (
        DONE,
        f"Not shown to be faster than the unmodified export: {figure} its speed ({interval}; {noise}).{by_name}",
    )


def _unmodified_sentence(candidates: Sequence[Trial]) -> str:
    best = max(candidates, key=_speedup, default=None)
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


def _limits_sentence(verdicts: Sequence[Verdict], limits: Sequence[Verdict]) -> str:
    """Name what failed of all verdicts, or say that the limits are met, if there are any."""
    for outcome, word in ((MISSED, "Missed"), (INCONCLUSIVE, "Inconclusive")):
        failed = [
            f"{each.limit} {each.asked}, measured {each.measured}" for each in verdicts if each.outcome == outcome
        ]
        if failed:
            return f"{word}: {'; '.join(failed)}."
    if not limits:
        return ""
    return "The limit is met." if len(limits) == 1 else "All limits are met."


def _accuracy_sentence(trial: Trial, verdicts: Sequence[Verdict], *, written: bool) -> str:
    """Say the drop, unless a verdict that failed has said it already."""
    said = any(verdict.limit == "max-drop" and verdict.outcome != MET for verdict in verdicts)
    if trial.accuracy is None:
        if written or not trial.agreement or any(output.nonfinite for output in trial.agreement):
            return ""
        worst = min(output.sqnr for output in trial.agreement)
        if worst == math.inf:
            return "The outputs equal the source's."
        return f"The outputs agree with the source's at {significant(worst)} dB or better."
    if said or math.isnan(trial.accuracy.drop.value):
        return ""
    return f"The drop of {trial.accuracy.metric} is {short(trial.accuracy.drop)}."


def _worst_first(sentences: tuple[str, str, str], outcomes: set[str]) -> tuple[str, str, str]:
    limits, speed, accuracy = sentences
    return (limits, speed, accuracy) if outcomes & {MISSED, INCONCLUSIVE} else (speed, accuracy, limits)
