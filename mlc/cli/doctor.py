"""``mlc doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from mlc.cli import options as o
from mlc.cli.output import listening, result
from mlc.errors import UsageError

ClearCache = Annotated[bool, typer.Option("--clear-cache", help="Remove the exports that are kept for later runs.")]


def doctor(
    *,
    clear_cache: ClearCache = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """Look at this installation and this machine.

    Versions, providers that really create a session, what the CPU has, exports that are kept, and name clashes; exits 1
    where there is one.
    """
    from mlc import doctor

    if clear_cache:
        if json:
            raise UsageError("--clear-cache and --json are given together", "give one of them")
        with listening(quiet=quiet, verbose=verbose):
            cleared = doctor.clear_cache()
        result(cleared)
        return 0
    with listening(quiet=quiet, verbose=verbose) as progress:
        diagnosis = doctor.diagnose(progress)
    result(doctor.render_json(diagnosis) if json else doctor.render(diagnosis))
    return int(bool(diagnosis.clashes))
