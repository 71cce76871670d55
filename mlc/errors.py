"""What can go wrong, as types with exit codes; the only place that catches other people's exceptions."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from mlc.installed import is_installed


class MlcError(Exception):
    """One clear sentence about what is wrong and where, and a hint that says what to do.

    Raised where the fact is known, caught once in ``mlc.cli.main``, which exits with ``exit_code``.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(MlcError):
    """The request itself is wrong: an option, a name, a combination, an output that exists."""

    exit_code = 2


class SourceError(MlcError):
    """The model cannot be used: missing, corrupt, does not export, differs after export."""

    exit_code = 3


class DataError(MlcError):
    """The calibration or evaluation data cannot be used."""

    exit_code = 3


class TargetError(MlcError):
    """The runtime, provider or device cannot be used."""

    exit_code = 3


class OutputError(MlcError):
    """The result cannot be written: disk full, failed replacement."""

    exit_code = 3


class PassError(MlcError):
    """A pass asked for by name did not do what was asked."""

    exit_code = 4


@contextmanager
def foreign(what: str, error: type[MlcError] = SourceError, hint: str = "") -> Iterator[None]:
    """Run code that is not ours; whatever it raises becomes ``error`` with the user's own line in the message.

    ``what`` names the code as the start of a sentence: ``foreign("the metric accuracy.py:score")``.
    An ``MlcError`` raised inside passes through unchanged.
    """
    try:
        yield
    except MlcError:
        raise
    except (Exception, SystemExit) as raised:
        place = user_line(raised)
        at = f" at {place}" if place else ""
        raise error(f"{what} raised {type(raised).__name__}{at}: {first_line(raised)}", hint) from raised


def kind_of(value: object) -> str:
    """Return what kind of thing a value is, behind its article: ``a str``, ``an int``."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def first_line(raised: BaseException) -> str:
    """Return the first non-empty line of an exception's text, at most 300 characters."""
    lines = [line.strip() for line in str(raised).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"


def user_line(raised: BaseException) -> str | None:
    """Return ``file.py:12 in forward`` for the innermost frame that is neither a library's nor mlc's, or None."""
    ours = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(raised.__traceback__)):
        path = Path(frame.filename)
        if not path.exists() or ours in path.parents or is_installed(path):
            continue
        return f"{path.name}:{frame.lineno} in {frame.name}"
    return None
