"""Two runs against each other, from their reports alone: what compares, and what got worse beyond the noise."""

from mlc.gating.common import TEXTS, Aspect, aspect, short_source
from mlc.gating.nouns import BETTER, NO_DIFFERENT, NOT_KNOWN, WORSE, Finding, Gate
from mlc.gating.outcome import exit_code, gate

__all__ = [
    "BETTER", "NOT_KNOWN", "NO_DIFFERENT", "TEXTS", "WORSE", "Aspect", "Finding", "Gate", "aspect", "exit_code", "gate",
    "short_source",
]  # fmt: skip
