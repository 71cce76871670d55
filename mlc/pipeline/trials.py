"""The models of one run, written as they would ship and measured against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlc.artifact import Artifact, write_model
from mlc.compare import Reference
from mlc.emulate import computes_half
from mlc.errors import TargetError, UsageError
from mlc.measuring import Candidate, Trial, measure
from mlc.measuring.latency import time_original
from mlc.metrics import Metric, from_function, load_metric
from mlc.pipeline.data import Datasets
from mlc.pipeline.halves import STRICT, as_a_gpu_computes
from mlc.pipeline.peaks import with_peaks
from mlc.pipeline.run import Live, Run, either
from mlc.probes import probe
from mlc.recipe import Recipe
from mlc.runtimes.strict import refuse_fallbacks
from mlc.sources.original import Original
from mlc.types import Capabilities, Sizes, Target

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
    recipe = run.recipe
    in_half = any(computes_half(artifact.model) for artifact in list(models.values())[:1])
    candidates = [
        Candidate(
            name,
            write_model(artifact.model, run.workspace.folder("candidate")),
            artifact.session_options,
            None if in_half else as_a_gpu_computes(artifact.model, recipe.target, run.workspace),
        )
        for name, artifact in models.items()
    ]
    if recipe.strict_provider:
        asked = any(step.requested and step.sites for step in list(models.values())[-1].steps)
        refuse_hopeless(candidates[-1:] if asked else candidates, recipe.target)
    sizes, inputs = timed_inputs(original, kept, sets, recipe)
    trials = measure(
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
    trials = tuple(
        replace(trial, notes=(*trial.notes, STRICT)) if trial.candidate.judged is not None else trial
        for trial in trials
    )
    return with_peaks(trials, original.signature.inputs, recipe.target, run.progress)


def refuse_hopeless(candidates: Sequence[Candidate], target: Target) -> None:
    """Raise TargetError, before anything is measured, where nodes of every model that may be written fall back."""
    refused = []
    for candidate in candidates:
        try:
            refuse_fallbacks(candidate.name, candidate.path, target, candidate.session_options)
        except TargetError as error:
            refused.append(error)
    if len(refused) == len(candidates):
        raise refused[-1]


def timed_inputs(original: Original, kept: Sequence[Reference], sets: Datasets, recipe: Recipe) -> tuple[Sizes, Arrays]:
    """Return the sizes at which latency is measured, the traced ones but for ``--at``, and inputs of those sizes."""
    sizes = {**kept[0].sizes, **recipe.at}
    return sizes, probe(original.signature.inputs, sizes, original.example, sets.first_samples(), recipe.seed)


def eager_name(original: Original, able: Capabilities) -> str:
    """Return what the original's own figures are called: it runs on the CPU, whatever the target is."""
    return original.eager if able.cpu else f"{original.eager} on the CPU"


def eager_of(
    original: Original, kept: Sequence[Reference], sets: Datasets, recipe: Recipe
) -> tuple[float, float, float] | None:
    """Return p50, p90 and p99 in milliseconds of the original itself; None where it is ONNX already."""
    if not original.eager:
        return None
    _, inputs = timed_inputs(original, kept, sets, recipe)
    return time_original(original, inputs)
