"""``mlc passes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlc.cli import options as o
from mlc.cli.output import result
from mlc.errors import UsageError

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="The pass to describe.", show_default=False, autocompletion=o.completing(o.pass_names)
    ),
]


Explain = Annotated[
    str | None,
    o.option("--explain", "MODEL", "Say what it would change in a model, and what not and why."),
]


def passes(
    *,
    name: Name = None,
    explain: Explain = None,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """List the passes, or describe one with its options."""
    if explain is not None and name is None:
        raise UsageError("--explain needs a pass", "write mlc passes NAME --explain MODEL")
    from mlc.describe_passes import describe, list_passes
    from mlc.describe_passes import explain as explained

    if name is None:
        result(list_passes())
    else:
        result(describe(name) if explain is None else explained(name, Path(explain)))
    return 0
