"""Whether a runtime's library holds a name: some accept any option and ignore those that they do not know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

END = b"\0"
"""Names are C strings."""


@cache
def holds(files: Sequence[Path], text: bytes) -> bool:
    """Return whether one of the files holds the bytes.

    Read in pieces, since the peak of the process's memory is a figure that is measured.
    """
    for path in files:
        with path.open("rb") as file:
            before = b""
            while piece := file.read(1 << 20):
                if text in before + piece:
                    return True
                before = (before + piece)[-len(text) :]
    return False
