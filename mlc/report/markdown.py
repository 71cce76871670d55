"""The report for a repository or a review: GitHub-flavoured Markdown, every section as a table."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlc.judging import Report
from mlc.report import explaining, history, results, setting
from mlc.report.cells import notes, title
from mlc.report.sheet import Sheet
from mlc.report.table import Table, plain

MOST_ROWS = 200
"""Rows of one table; report.html shows more, report.json all."""

_SPECIAL = re.compile(r"([\\`*\[\]<>|~$&#]|(?<!\w)_|_(?!\w))")
"""What Markdown could take for more than text; an underscore inside a word it does not."""


def render(report: Report) -> str:
    """Return the report with the verdicts first."""
    blocks = [
        f"# {_text(title(report, report.origin.source))}",
        f"**{_text(report.first_line)}**",
        *(_section(built) for built in _result_tables(report)),
        _list("Share of the peak", results.peaks(report.trials)),
        _list("Notes", notes(report)),
        _section(history.passes(report)),
        _list("Near misses", history.near_misses(report)),
        _section(history.declined(report)),
        _sites(report),
        _list("Notes of the passes", history.step_notes(report)),
        _section(history.plan(report)),
        _list("Saturation", report.saturation),
        *(_section(built) for built in (explaining.tensors(report), explaining.nodes(report))),
        *(_section(built) for built in (explaining.inside(report), explaining.kept(report))),
        _section(explaining.products(report)),
        _list("Quantization", explaining.sentences(report)),
        *(_section(built) for built in (history.placement(report), history.fallbacks(report), history.moved(report))),
        _code("Loading", "python", report.loading),
        *(_section(built) for built in (setting.signature(report), setting.source(report), setting.machine(report))),
        _section(setting.time_spent(report)),
        _code("Recipe", "toml", report.recipe_text),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def render_sheet(sheet: Sheet) -> str:
    """Return a short report on several runs."""
    blocks = [f"# {_text(sheet.title)}", f"**{_text(sheet.first_line)}**"]
    blocks += [*map(_section, sheet.tables), "\n".join(f"- {_text(sentence)}" for sentence in sheet.sentences)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _result_tables(report: Report) -> list[Table]:
    return [
        results.verdicts(report),
        results.figures(report),
        results.trials(
            report.trials,
            baseline=report.baseline is not None,
            eager=report.eager,
            eager_name=report.eager_name,
        ),
        results.agreement(report),
        results.checks(report),
        results.operators(report),
        results.layers(report),
    ]


def _section(built: Table) -> str:
    if not built:
        return ""
    shown = built.head(MOST_ROWS)
    lines = [f"## {_text(shown.title)}", "", _row(_text(cell) for cell in shown.header)]
    lines.append(_row("--:" if kind == "n" else "---" for kind in shown.kinds))
    lines += [_row(map(_cell, row, shown.kinds)) for row in shown.rows]
    return "\n".join([*lines, *(["", _text(shown.note)] if shown.note else [])])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: str, kind: str) -> str:
    return _name(cell) if kind == "c" and cell else _text(cell)


def _text(text: str) -> str:
    """Return free text in which nothing is taken for Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", plain(text))


def _name(text: str) -> str:
    """Return a name as code; inside a table a pipe is still escaped, a backtick cannot be."""
    return f"`{plain(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _list(heading: str, sentences: Iterable[str]) -> str:
    lines = [f"- {_text(sentence)}" for sentence in sentences]
    return "\n".join([f"## {heading}", "", *lines]) if lines else ""


def _sites(report: Report) -> str:
    lines = []
    for spec, names in history.sites(report):
        more = f" and {len(names) - MOST_ROWS:,} more" if len(names) > MOST_ROWS else ""
        lines.append(f"- {_name(spec)}: {', '.join(_name(name) for name in names[:MOST_ROWS])}{more}")
    return "\n".join(["## Sites", "", *lines]) if lines else ""


def _code(heading: str, language: str, code: str) -> str:
    if not code:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"## {heading}\n\n{fence}{language}\n{code.rstrip()}\n{fence}"
