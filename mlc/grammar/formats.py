"""The number formats that can be asked for."""

from __future__ import annotations

from mlc.errors import UsageError
from mlc.grammar.text import nearest

FORMATS = ("int8", "int8-static", "int8-dynamic", "int8-weights", "int4-weights", "fp16", "bf16")
"""All but the first are passes of the same name."""

MIXED = FORMATS[0]
"""Made of several passes, which divide the nodes by what pays on the target."""


def parse_format(text: str) -> str:
    """Return the number format of that name. Raises UsageError with the nearest."""
    if text not in FORMATS:
        raise UsageError(f"there is no number format {text!r}", nearest(text, FORMATS))
    return text
