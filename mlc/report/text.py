"""The report for a terminal: a screen of plain text, the verdict first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlc.figures import counted, decibels, error, milliseconds, percent
from mlc.judging import Report
from mlc.measuring import Trial
from mlc.report import explaining, history, results, setting
from mlc.report.cells import LOSSY, notes, shown_trials
from mlc.report.sheet import Sheet
from mlc.report.table import Table, aligned, plain, table

MOST_ROWS = 12


def render(report: Report) -> str:
    """Return the short form: first line, verdicts, figures, agreement, passes, fallbacks, where the rest stands."""
    blocks = [
        [plain(report.first_line)],
        _block("limits", results.verdicts(report), header=False) if report.verdicts else [],
        _figures(report),
        _agreement(report),
        _checks(report),
        _worst_values(report),
        _ways(report),
        _passes(report),
        _plan(report),
        *_explanation(report),
        _fallbacks(report),
        [f"note: {note}" for note in notes(report)],
        _written(report),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def render_trials(trials: Sequence[Trial]) -> str:
    """Return the table of ``mlc bench``: one model a line, the first is what the others are compared with."""
    built = results.trials(trials)
    lines = aligned(built, indent="")
    lines += [note for note in (built.note, results.paired(trials)) if note]
    lines += results.peaks(trials)
    lines += [plain(f"{trial.candidate.name}: {note}") for trial in trials for note in trial.notes]
    for trial in trials:
        for node in trial.placement.fallbacks if trial.placement else ():
            lines.append(plain(f"{trial.candidate.name}: {node.name} ({node.op}) fell back to {node.provider}"))
    return "\n".join(lines) + "\n"


def render_sheet(sheet: Sheet) -> str:
    """Return a short report on several runs."""
    blocks = [[plain(sheet.first_line)], *([built.title.lower(), *aligned(built)] for built in sheet.tables)]
    blocks += [[plain(sentence) for sentence in sheet.sentences]]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _block(title: str, built: Table, *, header: bool = True) -> list[str]:
    shown = built.head(MOST_ROWS)
    note = [f"  ({plain(shown.note)})"] if shown.note else []
    return [title, *aligned(shown, header=header), *note] if shown else []


def _figures(report: Report) -> list[str]:
    built = results.figures(report)
    eager = [f"  {report.eager_name}, alone: p50 {milliseconds(report.eager[0])}"] if report.eager else []
    peaks = [f"  {sentence}" for sentence in results.peaks([trial for _, trial in shown_trials(report)])]
    return [*_block("figures", built), *eager, *peaks] if built else []


def _agreement(report: Report) -> list[str]:
    shipped = report.trial
    lines = []
    for output in shipped.agreement if shipped else ():
        top = "" if output.top1 is None else f", same top-1 {percent(output.top1)}"
        figures = (
            f"SQNR {decibels(output.sqnr)}, cosine {output.cosine:.6f}{top}, largest error {error(output.largest)}"
        )
        lines.append(plain(f"  {output.output}: {figures} of the rms"))
    if shipped and (told := results.apart(shipped)):
        lines.append(plain(f"  ({told})"))
    return ["agreement with the original", *lines] if lines else []


def _checks(report: Report) -> list[str]:
    failed = [check for check in report.checks if not check.held]
    if not report.checks:
        return []
    if not failed:
        return [f"{counted(len(report.checks), 'comparison')} with the original, all held"]
    rows = results.checks(report)
    kept = tuple(row for row, check in zip(rows.rows, report.checks, strict=True) if not check.held)
    return _block("differs from the original", Table(rows.title, rows.kinds, rows.header, kept))


def _worst_values(report: Report) -> list[str]:
    """Return the values that differ most, the worst first, where a written model was compared layer by layer."""
    if report.command != "validate":
        return []
    worst = sorted(report.layers, key=lambda layer: (layer.sqnr, -(layer.error or 0.0)))[:MOST_ROWS]
    rows = [
        (layer.value, layer.op, decibels(layer.sqnr), error(layer.error or 0.0), "diverges" if layer.diverges else "")
        for layer in worst
    ]
    header = ("value", "operator", "SQNR", "largest error / rms", "")
    return _block("worst values", table("", "ccnnt", header, rows)) if rows else []


def _ways(report: Report) -> list[str]:
    tried = [plain(f"  {way}") for way in setting.ways(report)]
    return ["ways of exporting", *tried] if tried else []


def _passes(report: Report) -> list[str]:
    rows = []
    for step in report.steps:
        counts = [] if step.dropped else [counted(len(step.sites), "site") if step.sites else "found no site"]
        if step.refused:
            lossy = step.exactness == LOSSY
            counts.append(f"{len(step.refused):,} refused" if lossy else history.near_miss(step))
        counts += [f"{len(step.left_out):,} left out"] if step.left_out else []
        counts += [f"dropped: {step.dropped}"] if step.dropped else []
        counts += [f"{output} {decibels(value)} where probed" for output, value in step.sqnr.items()]
        rows.append((str(step.spec), step.exactness, ", ".join(counts)))
    lines = aligned(table("", "ttt", ("", "", ""), rows), header=False)
    return ["passes", *lines] if lines else []


def _plan(report: Report) -> list[str]:
    if report.plan is None:
        return []
    formats: dict[str, int] = {}
    for node in report.plan.nodes:
        formats[node.format] = formats.get(node.format, 0) + 1
    counts = ", ".join(f"{counted(count, 'node')} {form}" for form, count in sorted(formats.items()))
    return [plain(f"plan: {counts}"), *(plain(f"  {sentence}") for sentence in report.saturation)]


def _explanation(report: Report) -> list[list[str]]:
    """Return what of a quantized model runs on integers; where that was asked for, where it loses, the worst first."""
    said = explaining.sentences(report)
    tables = (explaining.tensors(report), explaining.nodes(report), explaining.inside(report), explaining.kept(report))
    asked = report.command == "validate" or not report.trials
    return [
        *(_block(built.title.lower(), built) for built in tables if asked),
        ["quantization", *(f"  {sentence}" for sentence in said)] if said else [],
    ]


def _fallbacks(report: Report) -> list[str]:
    return _block("fell back from the provider asked for", history.fallbacks(report), header=False)


def _written(report: Report) -> list[str]:
    if not report.directory:
        return []
    return [plain(f"report  {Path(report.directory) / 'report.html'}")]
