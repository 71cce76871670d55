"""The program and its commands, each in a file of its own, which is imported where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from mlc.cli.output import result
from mlc.cli.parsing import Command, Group

DISTRIBUTION = "mlc-toolchain"

COMMANDS = {
    "compile": "compile_", "quantize": "quantize", "validate": "validate", "bench": "bench", "run": "run",
    "inspect": "inspect", "report": "report", "passes": "passes", "doctor": "doctor",
}  # fmt: skip
"""Each command and its function."""

_MODULES = {"quantize": "compile"}
_HELP = {"help_option_names": ["-h", "--help"]}


def application(arguments: Sequence[str]) -> typer.Typer:
    """Return the program, quiet and plain: no rich help, no decorated tracebacks.

    Where the arguments begin with a command it has that one alone: building all of them would double the start-up.
    """
    app = typer.Typer(
        cls=Group,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_HELP,
    )
    app.callback()(_program)
    first = arguments[0] if arguments else ""
    for name in [first] if first in COMMANDS else COMMANDS:
        module = import_module(f"mlc.cli.{_MODULES.get(name, name)}")
        app.command(name, cls=Command, context_settings=_HELP)(getattr(module, COMMANDS[name]))
    return app


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        result(f"mlc {version(DISTRIBUTION)}")
        raise typer.Exit


def _program(
    _version_asked: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The fastest artifact of a PyTorch model that keeps its accuracy on this machine, with proof."""
