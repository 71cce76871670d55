"""The report for people: one file that needs no network and no font of its own, and no script to show all."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from mlc.figures import counted
from mlc.gating import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, short_source
from mlc.judging import DONE, INCONCLUSIVE, MISSED, SLOWER, UNMODIFIED, Report
from mlc.report import explaining, history, plots, results, setting
from mlc.report.cells import notes, title
from mlc.report.sheet import Sheet
from mlc.report.table import plain
from mlc.report.tiles import TONES, tiles

MOST_ROWS = 1000
"""Rows of one table, so that a report of a network of any size stays under 2 MB."""

MOST_NODES = 3000
"""Nodes of the plan that are listed, all its groups together."""

STATES = {
    DONE: ("Done", "good"),
    SLOWER: ("Done, slower", "warn"),
    UNMODIFIED: ("Unmodified", "warn"),
    MISSED: ("Limit missed", "bad"),
    INCONCLUSIVE: ("Inconclusive", "warn"),
}
"""What an outcome of a run is called, and its tone."""

SHEET_TONES = {
    WORSE: "bad", NOT_KNOWN: "warn", NO_DIFFERENT: "good", BETTER: "good", "differs": "warn", "same": "good",
    **{outcome: tone for outcome, (_, tone) in STATES.items()},
}  # fmt: skip
"""How the words of a sheet look."""


def render(report: Report) -> str:
    """Return the whole page."""
    state, tone = STATES.get(report.outcome, (report.outcome, ""))
    return _page(
        "report.html.j2",
        title=plain(title(report, short_source(report.origin.source))),
        state=plain(state),
        tone=tone,
        first_line=plain(report.first_line),
        report=report,
        tones=TONES,
        tiles=tiles(report),
        notes=notes(report),
        results=results,
        history=history,
        explaining=explaining,
        setting=setting,
        plots=plots,
        most_nodes=MOST_NODES,
        placed=report.trial.placement if report.trial else None,
    )


def render_sheet(sheet: Sheet) -> str:
    """Return a page on several runs."""
    first_line = plain(sheet.first_line)
    return _page(
        "sheet.html.j2",
        title=plain(sheet.title),
        state=sheet.state,
        tone=sheet.tone,
        first_line=first_line,
        sheet=sheet,
        tones=SHEET_TONES,
    )


def _page(name: str, **variables: Any) -> str:
    """Render a page whose policy lets its own style and script run, and nothing else."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlc", "report/page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"counted": counted, "plain": plain}
    style, script = (environment.get_template(f"{part}.j2").render() for part in ("style.css", "script.js"))
    return environment.get_template(name).render(
        style=style,
        script=script,
        style_digest=_digest(style),
        script_digest=_digest(script),
        most=MOST_ROWS,
        **variables,
    )


def _digest(text: str) -> str:
    """Return what a content security policy calls an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
