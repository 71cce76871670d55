"""Model files before a runtime sees them."""

from __future__ import annotations

from pathlib import Path

from mlc.errors import SourceError


def check_file(path: Path) -> None:
    """Raise SourceError for a model file that is missing or empty."""
    if not path.is_file():
        raise SourceError(f"there is no model file {path}", "check the path")
    if path.stat().st_size == 0:
        raise SourceError(f"the model file {path} is empty", "write it again")
