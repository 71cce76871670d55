"""The parser's own errors in mlc's form, with the nearest match, and no option that is silently overridden."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mlc.errors import UsageError
from mlc.grammar import nearest

_PARSER_ERROR: Any = typer.BadParameter.__bases__[0]
"""The parser's usage error, whichever copy of it this version of typer uses."""


class _AsWritten:
    """Hands the text of an option on as it was written: mlc's own grammar reads it.

    In its place typer builds a pydantic adapter for every option, which costs more than the rest of the start-up.
    """

    def coerce(self, value: Any, **_context: Any) -> Any:
        return value


class Command(TyperCommand):
    """A command that refuses an option that takes one value, or a flag and its opposite, and is given twice."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, that of the help included."""
        return _as_written(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as usual, after a look at what is repeated."""
        order: list[Any] = self.make_parser(ctx).parse_args(list(args))[2]
        for option in order:
            if not _repeatable(option) and order.count(option) > 1:
                raise UsageError(f"{option.opts[-1]} is given {order.count(option)} times", "give it once")
        return super().parse_args(ctx, args)


def _repeatable(parameter: Any) -> bool:
    """Whether a parameter may be given several times without one hiding another."""
    if parameter.param_type_name != "option" or parameter.multiple:
        return True
    return bool(parameter.is_flag and not parameter.secondary_opts)


class Group(TyperGroup):
    """The program: a command that does not exist is an error with the nearest match."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all parameters, that of the help included."""
        return _as_written(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name."""
        command = super().get_command(ctx, cmd_name)
        if command is None and not cmd_name.startswith("-") and not ctx.resilient_parsing:
            raise UsageError(f"there is no command {cmd_name!r}", nearest(cmd_name, self.commands))
        return command


def _as_written(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        parameter._runtime_param = _AsWritten()  # noqa: SLF001 - typer has no other way; older ones do not ask for it
    return parameters


def parser_error(raised: BaseException) -> UsageError | None:
    """Return what the parser found wrong as an error of ours, or None for any other exception."""
    if not isinstance(raised, _PARSER_ERROR):
        return None
    error: Any = raised
    path = error.ctx.command_path if error.ctx is not None else "mlc"
    see = f"see `{path} --help`"
    option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    if option is not None and hasattr(error, "possibilities"):
        known = [name for each in error.ctx.command.get_params(error.ctx) for name in each.opts if name[:2] == "--"]
        return UsageError(f"{path} has no option {option}", nearest(option, known))
    if parameter is not None:
        written = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.metavar
        if hasattr(error, "param_type"):
            return UsageError(f"{path} needs {written}", see)
        return UsageError(f"{written}: {_sentence(error.message)}", see)
    commands = getattr(getattr(error.ctx, "command", None), "commands", None)
    if commands and not option:
        return UsageError(f"{path} needs a command", f"there are: {', '.join(commands)}")
    sentence = _sentence(error.format_message())
    return UsageError(sentence if error.ctx is None else f"{path}: {sentence}", see)


def _sentence(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line[:1].lower() + line[1:]
