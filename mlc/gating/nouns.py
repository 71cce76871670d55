"""The nouns of a gate: what became of each figure, and of all together."""

from __future__ import annotations

from dataclasses import dataclass

from mlc.types import Interval

WORSE, NOT_KNOWN, NO_DIFFERENT, BETTER = "worse", "not known", "no different", "better"
"""What a figure can have become, what matters most first; not known is what cannot be compared."""


@dataclass(frozen=True)
class Finding:
    """One figure in two runs: its verdict, the figures as text, and one sentence on how they were compared.

    ``interval`` is that of ``change``: a loss (above 0 is worse), or how many times as fast (below 1 is worse).
    """

    figure: str
    verdict: str
    before: str
    now: str
    change: str
    sentence: str
    interval: Interval | None = None


@dataclass(frozen=True)
class Gate:
    """Every figure of the new run against the old one's; ``outcome`` is the worst of the verdicts."""

    old: str
    new: str
    findings: tuple[Finding, ...]
    outcome: str
    first_line: str
    notes: tuple[str, ...] = ()
