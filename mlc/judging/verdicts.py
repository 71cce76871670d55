"""One figure against one limit, and one latency against the noise."""

from __future__ import annotations

from collections.abc import Sequence

from mlc.compare import Check
from mlc.figures import measured, megabytes, milliseconds, significant, sizes_text
from mlc.judging.nouns import INCONCLUSIVE, MET, MISSED, Verdict
from mlc.measuring import Accuracy, Latency, Trial
from mlc.types import Drop, Interval, Limits


def requirement(name: str, asked: str, problems: Sequence[str]) -> Verdict:
    """Return a verdict on what must hold without being a limit, such as an equal interface: met without problems."""
    return Verdict(name, asked, "; ".join(problems) or "holds", MISSED if problems else MET)


def unusable(trials: Sequence[Trial], checks: Sequence[Check] = ()) -> tuple[str, ...]:
    """Return one sentence for each output that is of no use: of another shape or dtype, NaN or Inf unlike the source's.

    ``checks`` are at the verified sizes, the agreement of ``trials`` is over the data.
    """
    broken = [
        f"{difference.reason}, at {sizes_text(check.sizes)}{f' with {check.values}' if check.values else ''}"
        for check in checks
        for difference in check.differences
        if difference.broken
    ]
    nonfinite = [
        f"{output.nonfinite} values of {output.output} are NaN or infinite where the source's are finite"
        for trial in trials
        for output in trial.agreement
        if output.nonfinite
    ]
    return tuple(dict.fromkeys([*nonfinite, *broken]))


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
