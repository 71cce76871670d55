"""``mlc inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlc.cli import options as o
from mlc.cli.output import listening, result

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="model.onnx, or the directory of a compiled model.", show_default=False)
]
Targets = Annotated[
    list[str] | None,
    o.option("--target", "T", "Whose share of the nodes to ask for; repeatable (every installed provider)."),
]
At = Annotated[str | None, o.option("--at", "DIMS", "The sizes to count multiply-adds at, as in batch=8,seq=128.")]


def inspect(
    *,
    model: Model,
    targets: Targets = None,
    at: At = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """Say what is in a written model, and check its digests.

    Operators, weights, multiply-adds, history, and of which nodes each provider would run. Exits 1 where a file of a
    compiled model is missing, changed or was not written by mlc. Needs no torch.
    """
    from mlc.grammar.values import parse_sizes, parse_target

    asked = [o.given("--target", parse_target, text) for text in targets or ()]
    sizes = o.given("--at", parse_sizes, at) if at is not None else {}
    from mlc.inspecting import inspect_model

    with listening(quiet=quiet, verbose=verbose) as progress:
        found = inspect_model(Path(model), targets=asked, at=sizes, progress=progress)
    from mlc.report.inspection import exit_code, first_line, render

    if json:
        from mlc.report.json import render_fields

        result(render_fields(found))
    else:
        result(first_line(found) if quiet else render(found))
    return exit_code(found)
