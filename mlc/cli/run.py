"""``mlc run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlc.cli import options as o
from mlc.cli.output import listening, result

if TYPE_CHECKING:
    from mlc.types import Target

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="model.onnx, or the directory of a compiled model.", show_default=False)
]
Arrays = Annotated[
    str | None, o.option("--in", "FILE", "The inputs: an .npz with an array for each; of one input an .npy too.")
]
Out = Annotated[str | None, o.option("--out", "FILE.npz", "Where to write the outputs.", "-o")]
TargetText = Annotated[str | None, o.option("--target", "T", "Where to run it (where it was compiled for, else cpu).")]
Force = Annotated[bool, typer.Option("--force", help="Replace a FILE.npz that exists.")]


def run(
    *,
    model: Model,
    arrays: Arrays = None,
    out: Out = None,
    force: Force = False,
    target: TargetText = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """Run a written model once on arrays from a file.

    Prints a table of the outputs, or writes them with --out. Needs no torch.
    """
    chosen: Target | None = None
    if target is not None:
        from mlc.grammar.values import parse_target

        chosen = o.given("--target", parse_target, target)
    place, given = (None if text is None else Path(text) for text in (out, arrays))
    from mlc.running import run_model

    with listening(quiet=quiet, verbose=verbose) as progress:
        progress("running")
        ran = run_model(Path(model), given, out=place, force=force, target=chosen)
    if json:
        from mlc.report.json import render_fields

        result(render_fields(ran))
    else:
        from mlc.report.running import first_line, render

        result(first_line(ran) if quiet else render(ran))
    return 0
