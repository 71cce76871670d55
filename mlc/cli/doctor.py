"""``mlc doctor``."""

from __future__ import annotations

from mlc.cli import options as o
from mlc.cli.output import listening, result


def doctor(
    *,
    json: o.Json = False,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """Look at this installation and this machine.

    Versions, providers that really create a session, what the CPU has, and name clashes; exits 1 where there is one.
    """
    from mlc.doctor import diagnose, render, render_json

    with listening() as progress:
        diagnosis = diagnose(progress)
    result(render_json(diagnosis) if json else render(diagnosis))
    return int(bool(diagnosis.clashes))
