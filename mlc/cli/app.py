"""The program and its commands, each in a file of its own, which is imported where it is needed."""

from __future__ import annotations

import os
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

COMPLETING = "_MLC_COMPLETE"
"""Set by a shell that asks what may come next."""

_MODULES = {"quantize": "compile"}
_HELP = {"help_option_names": ["-h", "--help"]}


def application(arguments: Sequence[str]) -> typer.Typer:
    """Return the program, quiet and plain: no rich help, no decorated tracebacks.

    Where the arguments begin with a command it has that one alone, and of commands that are only listed it has the
    help: building all of them would double the start-up.
    """
    app = typer.Typer(
        cls=Group,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_HELP,
    )
    app.callback()(_program)
    named = next((argument for argument in arguments if not argument.startswith("-")), "")
    alone = named in COMMANDS and arguments[0] == named
    for name in [named] if alone else COMMANDS:
        module = import_module(f"mlc.cli.{_MODULES.get(name, name)}")
        function = getattr(module, COMMANDS[name])
        runs = name == named or COMPLETING in os.environ
        app.command(name, cls=Command, context_settings=_HELP, help=function.__doc__)(function if runs else _listed)
    return app


def _listed() -> None:
    """Stand for a command that the arguments do not name."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            result(f"mlc {version(DISTRIBUTION)}")
        except PackageNotFoundError:
            result("mlc, not installed")
        raise typer.Exit


def _program(
    _version_asked: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The fastest artifact of a PyTorch model that keeps its accuracy on this machine, with proof."""
