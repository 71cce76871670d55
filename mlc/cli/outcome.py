"""What an exception means to the user: a sentence, a hint and an exit code."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Self

import typer

from mlc.cli.output import error, flushed
from mlc.cli.parsing import parser_error
from mlc.errors import MlcError

INTERRUPTED = 130
UNEXPECTED = 70


class Outcome:
    """Turns whatever leaves its block into an exit code; nothing leaves it."""

    def __init__(self, *, debug: bool) -> None:
        self.debug = debug
        self.exit_code = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if raised is not None:
            self.exit_code = self._told(raised)
        elif self.exit_code == INTERRUPTED:  # typer has caught it
            error("interrupted")
        unwritten = flushed()
        if unwritten is not None and not self.exit_code:
            self.exit_code = self._told(unwritten)
        return True

    def _told(self, raised: BaseException) -> int:
        if isinstance(raised, SystemExit):
            return raised.code if isinstance(raised.code, int) else 1
        if isinstance(raised, BrokenPipeError):
            return 1
        if isinstance(raised, (KeyboardInterrupt, typer.Abort)):
            error("interrupted")
            return INTERRUPTED
        known = raised if isinstance(raised, MlcError) else parser_error(raised)
        if known is None:
            self._unexpected(raised)
            return UNEXPECTED
        if self.debug:
            _traceback(raised)
        error(known.message, known.hint)
        return known.exit_code

    def _unexpected(self, raised: BaseException) -> None:
        _traceback(raised)
        if isinstance(raised, ImportError):
            from mlc.doctor import clashes

            for clash in clashes():
                error(clash)
            return
        error(
            "this is a bug of mlc, or of what it is installed with", "report it with the lines above and `mlc doctor`"
        )


def _traceback(raised: BaseException) -> None:
    sys.stderr.write("".join(traceback.format_exception(raised)))
