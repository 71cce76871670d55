"""The models of one run, written as they would ship and measured against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlc.artifact import Artifact, write_model
from mlc.compare import Reference
from mlc.errors import UsageError
from mlc.measuring import Candidate, Trial, measure
from mlc.measuring.latency import time_original
from mlc.metrics import Metric, from_function, load_metric
from mlc.pipeline.data import Datasets
from mlc.pipeline.run import Live, Run, either
from mlc.probes import probe
from mlc.recipe import Recipe
from mlc.sources.onnx_file import OnnxOriginal
from mlc.sources.original import Original
from mlc.types import Sizes

if TYPE_CHECKING:
    from mlc.types import Arrays


def metric_of(recipe: Recipe, live: Live) -> Metric | None:
    """Return the metric asked for, by name or as a function. Raises UsageError where --max-drop does not go with it."""
    metric = _metric(either(live.metric, recipe.metric))
    if metric is not None and recipe.limits.max_drop is not None and not metric.takes_max_drop:
        raise UsageError(
            f"--max-drop does not go with the metric {metric.name}: the original's own has no finite value",
            "use cosine or agreement, or a metric of your own",
        )
    return metric


def _metric(given: Any) -> Metric | None:
    if given is None:
        return None
    return load_metric(given) if isinstance(given, str) else from_function(getattr(given, "__name__", "metric"), given)


def trials_of(
    models: Mapping[str, Artifact],
    *,
    original: Original,
    sets: Datasets,
    metric: Metric | None,
    kept: Sequence[Reference],
    run: Run,
) -> tuple[Trial, ...]:
    """Write each model into a folder of its own, as it would ship, and measure them; the first is the baseline."""
    candidates = [
        Candidate(name, write_model(artifact.model, run.workspace.folder("candidate")), artifact.session_options)
        for name, artifact in models.items()
    ]
    recipe = run.recipe
    sizes, inputs = timed_inputs(original, kept, sets, recipe)
    return measure(
        candidates,
        inputs,
        recipe.target,
        sizes,
        original=original,
        data=sets.evaluation,
        metric=metric,
        references=[reference for reference in kept if not reference.values],
        seed=recipe.seed,
        progress=run.progress,
    )


def timed_inputs(original: Original, kept: Sequence[Reference], sets: Datasets, recipe: Recipe) -> tuple[Sizes, Arrays]:
    """Return the sizes at which latency is measured, the traced ones but for ``--at``, and inputs of those sizes."""
    sizes = {**kept[0].sizes, **recipe.at}
    return sizes, probe(original.signature.inputs, sizes, original.example, sets.first_samples(), recipe.seed)


def eager_of(
    original: Original, kept: Sequence[Reference], sets: Datasets, recipe: Recipe
) -> tuple[float, float, float] | None:
    """Return p50, p90 and p99 in milliseconds of the torch module itself; None where the source is no module."""
    if isinstance(original, OnnxOriginal):
        return None
    _, inputs = timed_inputs(original, kept, sets, recipe)
    return time_original(original, inputs)
