"""How the verdict of a gate is shown."""

from __future__ import annotations

from mlc.gating import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, Gate
from mlc.report.sheet import Sheet
from mlc.report.table import table

STATES = {
    WORSE: ("Worse", "bad"),
    NOT_KNOWN: ("Not comparable", "warn"),
    NO_DIFFERENT: ("No different", "good"),
    BETTER: ("Better", "good"),
}
"""What an outcome is called, and its tone."""


def sheet(judged: Gate) -> Sheet:
    """Return a gate as a table, and a sentence for each figure that says how it was compared."""
    state, tone = STATES[judged.outcome]
    header = ("verdict", "figure", judged.old, judged.new, "change")
    rows = [(each.verdict, each.figure, each.before, each.now, each.change) for each in judged.findings]
    how = [f"{each.figure}: {each.sentence}" for each in judged.findings]
    return Sheet(
        title=f"mlc report --gate: {judged.old}, {judged.new}",
        state=state,
        tone=tone,
        first_line=judged.first_line,
        tables=(table("Findings", "ttttt", header, rows),),
        sentences=(*how, *judged.notes),
    )
