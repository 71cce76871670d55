"""Rows as a page: how many of each outcome, and a table of all architectures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.architectures.check import OUTCOMES, RIGHT, Row
from tests.architectures.overrides import EXCLUDED
from tests.architectures.own import OWN

START, END = "<!-- table -->", "<!-- end -->"
SHOWN = 240
"""How many characters of a sentence stand in the table; results.json has them all."""


def rewrite(page: Path, rows: Sequence[Row]) -> None:
    """Put the table of these rows between the marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n{table(rows)}\n{END}{after}", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Return the counts and the table as Markdown: own modules first, then families, by name."""
    own = _part("Own modules", [row for row in rows if row.name in OWN])
    families = _part("Families", [row for row in rows if row.name not in OWN])
    return "\n".join([*own, *families, *_left_out()])


def _left_out() -> Iterator[str]:
    yield "\n### Left out\n"
    for why in dict.fromkeys(EXCLUDED.values()):
        yield f"- {why}: {', '.join(name for name, reason in EXCLUDED.items() if reason == why)}"


def _part(title: str, rows: Sequence[Row]) -> Iterator[str]:
    counts = Counter(row.outcome for row in rows)
    yield f"\n### {title}\n"
    yield ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome]) + ".\n"
    yield "| architecture | class | inputs | outcome | opset | exporter, or why not |"
    yield "|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: row.name):
        why = _exporter(row) if row.outcome == RIGHT else row.sentence
        yield f"| {row.name} | {row.kind} | {_cell(row.inputs)} | {row.outcome} | {row.opset or ''} | {_cell(why)} |"


def _exporter(row: Row) -> str:
    return row.exporter.split(" ")[0].partition("(")[0]


def _cell(text: str) -> str:
    """Return text that fits in a cell."""
    short = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return re.sub(r"\s+", " ", short).replace("|", "\\|")
