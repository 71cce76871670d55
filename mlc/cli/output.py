"""What goes to which stream: results to stdout; errors and progress to stderr."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mlc.errors import OutputError, UsageError

if TYPE_CHECKING:
    from mlc.judging import Report

_HINT = "mlc: hint: "


def forgiving() -> None:
    """Write what stdout's encoding does not have, such as a file name that is no text, as escapes.

    Into a file or a pipe Windows would write in the code page of its language; JSON is UTF-8, and so is all else.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        ours = sys.platform == "win32" and not sys.stdout.isatty() and "PYTHONIOENCODING" not in os.environ
        sys.stdout.reconfigure(encoding="utf-8" if ours else None, errors="backslashreplace")


def result(text: str) -> None:
    """Write a result to stdout; a reader that has gone away is no error. Raises OutputError where the disk is full."""
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except OSError as refused:
        silence()
        if not reader_gone(refused):
            raise unwritten(refused) from refused


def reader_gone(error: OSError) -> bool:
    """Return whether writing failed since the reader has gone away: Windows calls that an invalid argument."""
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)


def rendered(report: Report, *, as_json: bool, quiet: bool) -> str:
    """Return a report as the command line shows it: as JSON, its first line alone, or a screen of text."""
    if as_json:
        from mlc.report.json import render
    elif quiet:
        return report.first_line
    else:
        from mlc.report.text import render
    return render(report)


def error(message: str, hint: str = "") -> None:
    """Write an error and its hint, whose further lines stand below its first, to stderr."""
    sys.stderr.write(f"mlc: error: {message}\n")
    if hint:
        sys.stderr.write(_HINT + hint.replace("\n", "\n" + " " * len(_HINT)) + "\n")


def note(text: str) -> None:
    """Write what is to be known beside a result to stderr."""
    sys.stderr.write(f"mlc: note: {text}\n")


def flushed() -> OutputError | None:
    """Flush stdout; return the error where it cannot be written, but none where its reader has gone away."""
    try:
        sys.stdout.flush()
    except OSError as refused:
        silence()
        return None if reader_gone(refused) else unwritten(refused)
    return None


def unwritten(refused: OSError) -> OutputError:
    """Return what it means that stdout cannot be written."""
    return OutputError(f"the result cannot be written to stdout: {refused.strerror}", "free space, or write elsewhere")


def silence() -> None:
    """Let what is still in stdout's buffer go nowhere, so that nothing more is said when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def listening(*, quiet: bool = False, verbose: bool = False) -> Iterator[Callable[[str], None]]:
    """Give a listener for progress: a line that changes, with the time that has gone by, where stderr is a terminal.

    ``verbose`` writes a line for each step instead, with the seconds since the start, wherever stderr goes; ``quiet``
    writes nothing. What the user's code prints meanwhile goes to stderr: stdout is for results. Raises UsageError for
    both.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose are given together", "give one of them")
    with contextlib.redirect_stdout(sys.stderr):
        if verbose:
            start = time.perf_counter()
            yield lambda text: _line(f"{time.perf_counter() - start:8.1f} s  {text}")
        elif quiet or not sys.stderr.isatty():
            yield lambda _text: None
        else:
            with _moving() as listener:
                yield listener


def _line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _moving() -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda text: progress.update(task, description=text)
