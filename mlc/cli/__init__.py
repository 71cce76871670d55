"""The commands: argv to exit code, the only place that prints or exits."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are told on stderr, each in one sentence and a hint."""
    try:
        from mlc.cli.app import application
        from mlc.cli.outcome import Outcome
        from mlc.cli.output import forgiving
    except KeyboardInterrupt:
        return 130
    forgiving()
    asked = list(sys.argv[1:] if arguments is None else arguments)
    with Outcome(debug="--debug" in asked) as outcome:
        outcome.exit_code = application(asked)(asked, prog_name="mlc", standalone_mode=False) or 0
    return outcome.exit_code
