"""How much a user writes: lines and characters, without comments and blank lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def written(text: str) -> list[str]:
    """Return the lines that say something; a line of a comment alone, or of one bracket, says nothing."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#") and line.strip("()[]{},") != ""]


def counted(files: Iterable[Path]) -> dict[str, int]:
    """Return the number of files, lines and characters that are written."""
    texts = [written(path.read_text(encoding="utf-8")) for path in files]
    return {
        "files": len(texts),
        "lines": sum(len(lines) for lines in texts),
        "characters": sum(len(line) for lines in texts for line in lines),
    }
