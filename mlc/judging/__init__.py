"""Pass or fail: the user's limits against what was measured, and everything that the report says."""

from mlc.judging.nouns import (
    DONE,
    INCONCLUSIVE,
    MET,
    MISSED,
    SLOWER,
    UNMODIFIED,
    Judgement,
    Report,
    Verdict,
)
from mlc.judging.outcome import choose, exit_code, judge
from mlc.judging.verdicts import allowed_drop, at_most, compared, noise_band, requirement, unusable, verdicts_on

__all__ = [
    "DONE", "INCONCLUSIVE", "MET", "MISSED", "SLOWER", "UNMODIFIED", "Judgement", "Report", "Verdict", "allowed_drop",
    "at_most", "choose", "compared", "exit_code", "judge", "noise_band", "requirement", "unusable", "verdicts_on",
]  # fmt: skip
