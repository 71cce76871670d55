"""``mlc validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlc.cli import options as o
from mlc.cli.output import listening, rendered, result

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="model.onnx, or the directory of a compiled model.", show_default=False)
]
PerLayer = Annotated[
    bool, typer.Option("--per-layer", help="Compare every value that both have: where the two part, and the worst.")
]
Against = Annotated[str, o.option("--against", "SOURCE", o.SOURCE_FORMS)]


def validate(
    *,
    model: Model,
    against: Against,
    inputs: o.Inputs = None,
    target: o.TargetText = None,
    data: o.DataText = None,
    images: o.ImagesText = None,
    metric: o.MetricText = None,
    max_drop: o.MaxDrop = None,
    seed: o.Seed = None,
    strict: o.Strict = False,
    strict_provider: o.StrictProvider = False,
    per_layer: PerLayer = False,
    task: o.Task = None,
    trust: o.Trust = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """Compare a written model with its source.

    The interface and the numbers; with data the accuracy.
    """
    flags = {
        "source": against, "inputs": inputs, "target": target, "data": data, "images": images, "metric": metric,
        "max_drop": max_drop, "seed": seed, "task": task,
    }  # fmt: skip
    changes = o.recipe_changes(flags, source="--against")
    from mlc.judging import exit_code
    from mlc.pipeline import validate as validate_model
    from mlc.recipe import changed

    asked = changed(None, changes)
    with listening(quiet=quiet, verbose=verbose) as progress:
        report = validate_model(
            Path(model), asked.source, data=asked.data, images=asked.images, metric=asked.metric,
            max_drop=asked.limits.max_drop, inputs=asked.inputs, target=asked.target, seed=asked.seed, task=asked.task,
            trust=trust, strict_provider=strict_provider, per_layer=per_layer, progress=progress,
        )  # fmt: skip
    result(rendered(report, as_json=json, quiet=quiet))
    return exit_code(report, strict=strict)
