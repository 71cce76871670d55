"""What was measured, as tables of text: verdicts, figures, agreement, time by operator, error by layer, checks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from mlc.compare import Check
from mlc.figures import (
    counted,
    decibels,
    ends,
    error,
    listed,
    megabytes,
    milliseconds,
    percent,
    significant,
    sizes_text,
)
from mlc.judging import Report
from mlc.layer_errors import LayerError
from mlc.measuring import Trial
from mlc.measuring.agreement import APART
from mlc.report.cells import (
    UNKNOWN,
    accuracy_text,
    drop_text,
    load_text,
    memory_text,
    noise_text,
    original_accuracy,
    p50_text,
    share_text,
    shown_trials,
    speedup_text,
)
from mlc.report.table import Table, plain, table

MOST_SAMPLES = 5
"""How many samples are named that are far apart by themselves."""

LAYER_HEADER = ("value", "operator", "SQNR")

PAIRED = "a speed-up is over rounds in which both ran in turn, so it need not be the ratio of their p50s"


def verdicts(report: Report) -> Table:
    """Limits and what else has to hold, the failed ones first."""
    order = {"missed": 0, "inconclusive": 1}
    rows = sorted(report.verdicts, key=lambda verdict: order.get(verdict.outcome, 2))
    header = ("verdict", "limit", "asked", "measured")
    return table("Verdicts", "tttt", header, [(each.outcome, each.limit, each.asked, each.measured) for each in rows])


def figures(report: Report) -> Table:
    """The baseline beside what ships, one figure a row; rows that nobody measured are left out."""
    shown = shown_trials(report)
    trials = [trial for _, trial in shown]
    rows: list[tuple[str, ...]] = []
    accuracies = [trial.accuracy for trial in trials if trial.accuracy]
    if accuracies:
        kind = accuracies[0]
        direction = "higher" if kind.higher_is_better else "lower"
        original = original_accuracy(kind)
        rows.append((f"{kind.metric} ({direction} is better; original {original})", *map(accuracy_text, trials)))
        rows.append((f"drop, {counted(kind.samples, 'sample')}", *map(drop_text, trials)))
    if any(trial.latency for trial in trials):
        at = next(sizes_text(trial.latency.sizes) for trial in trials if trial.latency)
        rows.append((f"latency p50 at {at}", *(p50_text(trial) for trial in trials)))
        rows.append(("speed-up", *(speedup_text(trial, baseline=trial is report.baseline) for trial in trials)))
        rows.append(("noise, export beside itself", noise_text(trials[0]), *[""] * (len(trials) - 1)))
    if any(trial.latency and trial.latency.arithmetic for trial in trials):
        rows.append(("share of the measured peak", *map(share_text, trials)))
    rows.append(("size", *(megabytes(trial.size_bytes) for trial in trials)))
    if any(trial.peak_memory_mb is not None for trial in trials):
        rows.append(("peak memory", *(memory_text(trial) for trial in trials)))
    if any(trial.load_seconds is not None for trial in trials):
        rows.append(("load", *(load_text(trial) for trial in trials)))
    header = ("", *(heading for heading, _ in shown))
    return table("Figures", "t" * (len(shown) + 1), header, rows if shown else (), paired(trials))


def trials(
    measured: Sequence[Trial],
    *,
    baseline: bool = True,
    eager: tuple[float, float, float] | None = None,
    eager_name: str = "",
) -> Table:
    """Every trial with all its figures; the first is what the others are compared with. ``eager`` has a row by name."""
    header = ("model", "p50", "p90", "p99", "p50, default settings", "speed-up", "size", "load", "peak memory")
    rows = []
    for number, trial in enumerate(measured):
        latency = trial.latency
        quantiles = [latency.p50, latency.p90, latency.p99, latency.default_ms] if latency else [None] * 4
        rows.append(
            (
                trial.candidate.name,
                *(UNKNOWN if value is None else milliseconds(value) for value in quantiles),
                speedup_text(trial, baseline=baseline and number == 0),
                megabytes(trial.size_bytes),
                load_text(trial),
                memory_text(trial),
            )
        )
    if eager:
        alone = milliseconds(eager[0])
        rows.append((f"{eager_name}, alone", *map(milliseconds, eager), alone, *[UNKNOWN] * 4))
    return table("All that was measured", "cnnnnnnnn", header, rows, _trials_note(measured))


def paired(measured: Sequence[Trial]) -> str:
    """Say what a speed-up is, where it stands beside latencies that a reader may divide."""
    return PAIRED if sum(trial.latency is not None for trial in measured) > 1 else ""


def peaks(measured: Sequence[Trial]) -> list[str]:
    """How near each model comes to what the machine can compute, a sentence for each whose arithmetic is known."""
    return [
        plain(
            f"{trial.candidate.name} runs at {share_text(trial)} of this machine's measured float32 peak of "
            f"{significant(found.peak / 1e9)} GFLOP/s ({_threads(found.threads)})"
        )
        for trial in measured
        if trial.latency and (found := trial.latency.arithmetic)
    ]


def _threads(count: int | None) -> str:
    return "as many threads as the runtime takes" if count is None else counted(count, "thread")


def agreement(report: Report) -> Table:
    """How the outputs agree with the original's."""
    header = ("model", "output", "SQNR", "cosine", "same top-1", "largest error / rms")
    rows = [
        (
            heading,
            output.output,
            decibels(output.sqnr),
            f"{output.cosine:.6f}",
            "" if output.top1 is None else percent(output.top1),
            error(output.largest),
        )
        for heading, trial in shown_trials(report)
        for output in trial.agreement
    ]
    told = [f"{heading}: {said}" for heading, trial in shown_trials(report) if (said := apart(trial))]
    return table("Agreement with the original", "tcnnnn", header, rows, "; ".join(told))


def apart(trial: Trial) -> str:
    """Say which samples agree at less than 10 dB by themselves, which the ratio of all may hide; empty for none."""
    return "; ".join(
        f"{counted(len(output.apart), 'sample')} of the output {output.output} below {APART:g} dB alone, "
        f"{listed([f'{index}' for index in output.apart], MOST_SAMPLES)}"
        for output in trial.agreement
        if output.apart
    )


def operators(report: Report) -> Table:
    """Where the time of one run goes by kind of operator: the baseline beside the other."""
    shown = shown_trials(report)
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0] * (2 * len(shown)))
    for column, (_, trial) in enumerate(shown):
        for entry in trial.profile.operators if trial.profile else ():
            spent[entry.op][2 * column] += entry.count
            spent[entry.op][2 * column + 1] += entry.microseconds
    ordered = sorted(spent.items(), key=lambda item: (-max(item[1][1::2]), item[0]))
    rows = [[op, *_operator_cells(values)] for op, values in ordered]
    if rows:
        totals = [sum(values[column] for values in spent.values()) for column in range(2 * len(shown))]
        rows.append(["all", *_operator_cells(totals)])
    header = ("operator", *(f"{heading}: {what}" for heading, _ in shown for what in ("nodes", "time")))
    note = "medians over profiled runs"
    return table("Where the time goes", "c" + "n" * (2 * len(shown)), header, rows, note, total=True)


def layers(report: Report, most: int | None = None) -> Table:
    """Error by layer in the order of the network; of more than ``most`` values those that differ most."""
    shown, note = list(report.layers), ""
    if most is not None and len(shown) > most:
        worst = sorted(range(len(shown)), key=lambda index: _ratio(shown[index]))[:most]
        shown = [shown[index] for index in sorted(worst)]
        note = f"the {most:,} of {len(report.layers):,} that differ most; all of them are in report.json"
    return table("Error by layer", "ccn", LAYER_HEADER, map(_layer_row, shown), note)


def worst_layers(report: Report, most: int = 5) -> Table:
    """The values that differ most, the worst first."""
    worst = sorted((layer for layer in report.layers if layer.sqnr < math.inf), key=_ratio)[:most]
    return table("The largest errors", "ccn", LAYER_HEADER, map(_layer_row, worst))


def _layer_row(layer: LayerError) -> tuple[str, str, str]:
    return layer.value, layer.op, decibels(layer.sqnr)


def _ratio(layer: LayerError) -> float:
    """Return the ratio to sort by; what is no number is better than all."""
    return math.inf if math.isnan(layer.sqnr) else layer.sqnr


def checks(report: Report) -> Table:
    """Every comparison with the original, at each size."""
    rows = []
    for check in report.checks:
        reasons = [f"{each.output}: {each.reason}" for each in check.differences if each]
        outcome = "held" if check.held else "; ".join(reasons)
        at = ", ".join(text for text in (sizes_text(check.sizes), check.values) if text)
        rows.append((check.name, at, error(check.error), asked_of(check), outcome))
    header = ("what", "at", "largest error / rms", "asked", "outcome")
    return table("Checks against the original", "ttnnt", header, rows)


def asked_of(check: Check) -> str:
    """Return what a comparison had to hold."""
    if check.floor is not None:
        return f"at least {decibels(check.floor)}"
    return f"at most {error(check.tolerance)}" if math.isfinite(check.tolerance) else "finite as the original"


def _operator_cells(values: Sequence[float]) -> list[str]:
    cells: list[str] = []
    for count, microseconds in zip(values[::2], values[1::2], strict=True):
        cells += [f"{count:,.0f}", milliseconds(microseconds / 1e3)] if count else ["", ""]
    return cells


def _trials_note(measured: Sequence[Trial]) -> str:
    timed = [trial.latency for trial in measured if trial.latency]
    if not timed:
        return ""
    return f"at {sizes_text(timed[0].sizes)}; the first model beside itself: {ends(timed[0].noise)}"
