"""``mlc bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlc.cli import options as o
from mlc.cli.output import listening, result
from mlc.errors import UsageError

if TYPE_CHECKING:
    from mlc.measuring import Trial

MODELS = "model.onnx, or directories of compiled models; the first is what the others are compared with."
SECONDS = "20"

Models = Annotated[list[str], typer.Argument(metavar="MODEL", help=MODELS, show_default=False)]
Seconds = Annotated[str, o.option("--seconds", "S", f"How long to measure, all models together ({SECONDS}).")]


def bench(
    *,
    models: Models,
    target: o.TargetText = None,
    at: o.At = None,
    seconds: Seconds = SECONDS,
    strict_provider: o.StrictProvider = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """Measure written models on this machine; needs no torch."""
    from mlc.grammar.values import parse_number, parse_sizes, parse_target, positive

    for model in models:
        if models.count(model) > 1:
            raise UsageError(f"{model} is given {models.count(model)} times", "give each model once")
    asked_target = o.given("--target", parse_target, target or "cpu")
    sizes = o.given("--at", parse_sizes, at) if at is not None else {}
    time = o.given("--seconds", lambda text: positive(parse_number(text), "the time to measure"), seconds)
    from mlc.pipeline import bench as bench_models

    with listening(quiet=quiet, verbose=verbose) as progress:
        trials = bench_models(
            [Path(model) for model in models], target=asked_target, at=sizes, seconds=time,
            strict_provider=strict_provider, progress=progress,
        )  # fmt: skip
    result(_rendered(trials, as_json=json))
    return 0


def _rendered(trials: Sequence[Trial], *, as_json: bool) -> str:
    if not as_json:
        from mlc.report.text import render_trials

        return render_trials(trials)
    from mlc.machine import machine
    from mlc.report.json import render_trials as render_json

    return render_json(trials, machine())
