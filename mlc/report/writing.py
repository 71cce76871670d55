"""A report in a place of the user's own: one file, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from mlc.errors import OutputError, UsageError


def check_file(place: Path, *, force: bool) -> None:
    """Raise UsageError where a file could not be put, before anything is read."""
    if place.is_dir():
        raise UsageError(f"the output {place} is a directory", "name a file")
    if place.exists() and not force:
        raise UsageError(f"the output {place} exists", "give --force to replace it, or choose another -o")
    if not place.parent.is_dir():
        raise UsageError(
            f"there is no folder {place.parent} to write {place.name} into", "make it, or choose another -o"
        )
    if not os.access(place.parent, os.W_OK):
        raise UsageError(f"the folder {place.parent} cannot be written", "choose another -o")


def encoded(text: str) -> bytes:
    """Return a report as the bytes of its file; names that are no Unicode are written as escapes."""
    return text.encode("utf-8", "backslashreplace")


def write_file(place: Path, text: str) -> None:
    """Write a file beside its place and move it there. Raises OutputError; then what was there is as it was."""
    real = Path(os.path.realpath(place))
    staging = real.with_name(f".{real.name}.mlc-new-{os.getpid()}")
    try:
        try:
            with staging.open("xb") as file:
                file.write(encoded(text))
                file.flush()
                os.fsync(file.fileno())
            staging.replace(real)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        hint = "what was there before is as it was; free some space or choose another -o"
        raise OutputError(f"the output {place} could not be written: {error.strerror or error}", hint) from error
