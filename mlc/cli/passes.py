"""``mlc passes``."""

from __future__ import annotations

from typing import Annotated

import typer

from mlc.cli import options as o
from mlc.cli.output import result

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="The pass to describe.", show_default=False, autocompletion=o.completing(o.pass_names)
    ),
]


def passes(
    *,
    name: Name = None,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """List the passes, or describe one with its options."""
    from mlc.describe_passes import describe, list_passes

    result(list_passes() if name is None else describe(name))
    return 0
