"""What goes to which stream: results to stdout; errors and progress to stderr."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator

_HINT = "mlc: hint: "


def forgiving() -> None:
    """Write what stdout's encoding does not have, such as a file name that is no text, as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def result(text: str) -> None:
    """Write a result to stdout; a reader that has gone away is no error."""
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        quiet_pipe()


def error(message: str, hint: str = "") -> None:
    """Write an error and its hint, whose further lines stand below its first, to stderr."""
    sys.stderr.write(f"mlc: error: {message}\n")
    if hint:
        sys.stderr.write(_HINT + hint.replace("\n", "\n" + " " * len(_HINT)) + "\n")


def quiet_pipe() -> None:
    """Flush stdout; where its reader has gone away, let nothing more be said about it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def listening() -> Iterator[Callable[[str], None]]:
    """Give a listener for progress, shown while it lasts where stderr is a terminal.

    What the user's code prints meanwhile goes to stderr: stdout is for results.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if not sys.stderr.isatty():
            yield lambda _text: None
            return
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text("starting")) as status:
            yield lambda text: status.update(Text(text))
