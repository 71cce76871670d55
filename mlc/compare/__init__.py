"""Are two models the same? The one place that knows tolerance, for export, passes and final files."""

from mlc.compare.outputs import (
    END_TOLERANCE,
    EXPORT_TOLERANCE,
    Check,
    Decision,
    Difference,
    Reference,
    Threshold,
    compare,
    compare_end,
    compare_one,
    is_float,
    powers,
    ratio_db,
    rms,
    sqnr,
)

__all__ = [
    "END_TOLERANCE",
    "EXPORT_TOLERANCE",
    "Check",
    "Decision",
    "Difference",
    "Reference",
    "Threshold",
    "compare",
    "compare_end",
    "compare_one",
    "is_float",
    "powers",
    "ratio_db",
    "rms",
    "sqnr",
]
