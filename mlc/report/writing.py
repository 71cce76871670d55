"""A report in a place of the user's own: one file, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from mlc import directory
from mlc.errors import UsageError

OPTION = "-o"


def check_file(place: Path, *, force: bool) -> None:
    """Raise UsageError where a file could not be put, before anything is read."""
    if place.is_dir():
        raise UsageError(f"the output {place} is a directory", "name a file")
    directory.check_file(place, OPTION, force=force)


def encoded(text: str) -> bytes:
    """Return a report as the bytes of its file; names that are no Unicode are written as escapes."""
    return text.encode("utf-8", "backslashreplace")


def write_file(place: Path, text: str) -> None:
    """Write a file beside its place and move it there. Raises OutputError; then what was there is as it was."""
    with directory.replaced_file(place, OPTION) as file:
        file.write(encoded(text))
