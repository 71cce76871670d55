"""The Python door: the whole line in one call, and each of its stages on its own."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mlc.artifact import Artifact
from mlc.data import open_data
from mlc.errors import UsageError
from mlc.exporting import export as export_checked
from mlc.grammar import nearest
from mlc.grammar.images import Images
from mlc.judging import Judgement, Report
from mlc.judging import judge as judge_trials
from mlc.measuring import Trial
from mlc.pipeline import Live
from mlc.pipeline import compile as compile_recipe
from mlc.pipeline.data import Datasets, refuse_contradictions, refuse_missing_answers, refuse_missing_data
from mlc.pipeline.opset import able_for
from mlc.pipeline.outliers import amend_for
from mlc.pipeline.quantizing import quantizing
from mlc.pipeline.run import Progress, Run, silent
from mlc.pipeline.trials import metric_of, trials_of
from mlc.probes import references
from mlc.recipe import LIMITS, Recipe, check_sizes, merge
from mlc.registry import runnable, schedule
from mlc.rewriting import Raising
from mlc.rewriting import rewrite as rewrite_verified
from mlc.sources.load import load as load_source
from mlc.sources.onnx.file import OnnxOriginal
from mlc.sources.original import Original
from mlc.statistics import Store
from mlc.types import Drop, InputSpec, PassSpec, Target
from mlc.workspace import Workspace


def compile(  # noqa: A001 - the word of the field
    source: Any,
    example: Any = None,
    *,
    inputs: Sequence[str | InputSpec] | None = None,
    passes: Sequence[str | PassSpec] | None = None,
    to: str | None = None,
    keep_float: Sequence[str] | None = None,
    plan: str | Path | None = None,
    target: str | Target | None = None,
    calibrate: Any = None,
    statistics: str | Path | None = None,
    data: Any = None,
    images: str | Mapping[str, Any] | Images | None = None,
    metric: Any = None,
    max_drop: str | float | Drop | None = None,
    max_latency: float | None = None,
    min_speedup: float | None = None,
    max_size: float | None = None,
    at: str | Mapping[str, int] | None = None,
    opset: int | None = None,
    seed: int | None = None,
    strict: bool | None = None,
    strict_provider: bool | None = None,
    portable: bool | None = None,
    freeze: bool | None = None,
    task: str | None = None,
    trust: bool = False,
    cache: bool = True,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
    **other: Any,
) -> Report:
    """Compile a module, or what the command line calls SOURCE; return the report.

    Keywords are the keys of a recipe, as texts of the grammar or as objects; ``calibrate`` and ``data`` may be any
    re-iterable of batches too, ``metric`` any function of outputs and answers. Without ``out`` nothing is kept.
    Raises an MlcError, for any ``other`` keyword too; a missed limit is an outcome of the report, not an error.
    """
    asked = {
        "inputs": inputs, "passes": passes, "to": to, "keep_float": keep_float, "plan": plan,
        "target": target, "calibrate": calibrate, "statistics": None if statistics is None else str(statistics),
        "data": data, "images": images, "metric": metric,
        "max_drop": max_drop, "max_latency": max_latency, "min_speedup": min_speedup, "max_size": max_size, "at": at,
        "opset": opset, "seed": seed, "strict": strict, "strict_provider": strict_provider, "portable": portable,
        "freeze": freeze, "task": task, **other,
    }  # fmt: skip
    recipe, live = _asked(source, example, asked)
    place = None if out is None else Path(out)
    return compile_recipe(recipe, place, force=force, trust=trust, cache=cache, live=live, progress=progress)


def load(
    source: Any,
    example: Any = None,
    *,
    inputs: Sequence[str | InputSpec] | None = None,
    task: str | None = None,
    trust: bool = False,
) -> Original:
    """Load a module, or what the command line calls SOURCE, as the Original that every later stage is compared with."""
    specs = merge(None, {"source": "python:", "inputs": list(inputs or ())}).inputs
    return load_source(str(source) if isinstance(source, Path) else source, specs, example, trust=trust, task=task)


def export(original: Original, *, data: Any = None, opset: int | None = None, seed: int = 0) -> Artifact:
    """Export to ONNX, compared with the original at every verified size. Raises SourceError where it differs."""
    kept, _ = references(original, _samples(original, data), seed)
    artifact, _ = export_checked(original, kept, _workspace(), opset)
    return artifact


def rewrite(
    artifact: Artifact,
    original: Original,
    *,
    passes: Sequence[str | PassSpec] = (),
    to: str | None = None,
    keep_float: Sequence[str] = (),
    plan: str | Path | None = None,
    calibrate: Any = None,
    statistics: str | Path | None = None,
    target: str | Target | None = None,
    seed: int | None = None,
    strict: bool | None = None,
    **other: Any,
) -> Artifact:
    """Run the default passes and those asked for, each verified against the original; the steps say how each went.

    ``to``, ``keep_float``, ``plan`` and ``statistics`` are what a recipe has under these keys. Raises PassError where a
    pass did not do what was asked, UsageError for a lossy pass without ``calibrate`` or ``statistics``, the other way
    round, and for any ``other`` keyword.
    """
    _refuse_others(other, ("passes", "to", "keep_float", "plan", "calibrate", "statistics", "target", "seed", "strict"))
    given = {
        "passes": list(passes),
        "to": to,
        "keep_float": list(keep_float),
        "plan": None if plan is None else str(plan),
        "statistics": None if statistics is None else str(statistics),
    }
    recipe = merge(None, {"source": "python:", **given, "target": target, "seed": seed, "strict": strict})
    live = Live(calibrate=calibrate)
    asked = quantizing(recipe, live)
    specs = schedule(asked.all, defaults=recipe.defaults)
    refuse_contradictions(recipe, live, specs)
    refuse_missing_data(recipe, live, specs, divided=asked.planner.mixed)
    able = able_for(recipe, specs)
    specs = runnable(specs, asked.passes, recipe.target, able)
    data = None if calibrate is None else open_data(calibrate, original.signature.inputs)
    kept, _ = references(original, _samples(original, calibrate), recipe.seed)
    return rewrite_verified(
        artifact,
        specs,
        references=kept,
        workspace=_workspace(),
        capabilities=able,
        target=recipe.target,
        requested=[spec.name for spec in asked.passes],
        calibration=data,
        statistics=None if statistics is None else Store.load(Path(statistics)),
        seed=recipe.seed,
        strict=recipe.strict,
        raising=Raising.ANY if isinstance(original, OnnxOriginal) else Raising.ASKED,
        planner=asked.planner,
        amend=amend_for(recipe, Datasets(calibration=data), kept, able, _workspace()),
    )


def measure(
    models: Mapping[str, Artifact],
    original: Original,
    *,
    data: Any = None,
    metric: Any = None,
    target: str | Target | None = None,
    at: str | Mapping[str, int] | None = None,
    seed: int | None = None,
    progress: Progress = silent,
    **other: Any,
) -> tuple[Trial, ...]:
    """Measure artifacts by name, the first is the baseline. Raises UsageError for any ``other`` keyword."""
    _refuse_others(other, ("data", "metric", "target", "at", "seed"))
    recipe, live = _asked("python:", None, {"metric": metric, "target": target, "at": at, "seed": seed})
    refuse_contradictions(recipe, replace(live, data=data), ())
    check_sizes(recipe.at, original.signature.inputs)
    evaluation = None if data is None else open_data(data, original.signature.inputs, original.signature.outputs)
    metric = metric_of(recipe, live)
    refuse_missing_answers(metric, evaluation)
    sets = Datasets(None, evaluation)
    kept, _ = references(original, sets.first_samples(), recipe.seed)
    run = Run(recipe, _workspace(), progress)
    return trials_of(models, original=original, sets=sets, metric=metric, kept=kept, run=run)


def judge(
    trials: Sequence[Trial],
    *,
    shipped: str = "",
    max_drop: str | float | Drop | None = None,
    max_latency: float | None = None,
    min_speedup: float | None = None,
    max_size: float | None = None,
    **other: Any,
) -> Judgement:
    """Judge a trial against limits. Raises UsageError for any ``other`` keyword."""
    _refuse_others(other, LIMITS)
    asked = {"max_drop": max_drop, "max_latency": max_latency, "min_speedup": min_speedup, "max_size": max_size}
    return judge_trials(trials, merge(None, {"source": "python:", **asked}).limits, shipped=shipped)


def _refuse_others(other: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse what a stage could only ignore, with the nearest match."""
    for key in other:
        raise UsageError(f"there is no {key!r} in this stage", nearest(key, known))


def _asked(source: Any, example: Any, asked: Mapping[str, Any]) -> tuple[Recipe, Live]:
    """Tell what a recipe can hold from the Python objects that it cannot."""
    named: dict[str, Any] = {}
    live: dict[str, Any] = {}
    for key, given in {"source": source, **asked}.items():
        is_object = key in {"source", "calibrate", "data", "metric"} and not isinstance(given, str | Path | None)
        if is_object:
            live["module" if key == "source" else key] = given
        named[key] = f"python:{type(given).__name__}" if is_object else str(given) if isinstance(given, Path) else given
    return merge(None, named), Live(example=example, **live)


def _samples(original: Original, data: Any) -> Any:
    sets = Datasets(None, None if data is None else open_data(data, original.signature.inputs))
    return sets.first_samples()


@cache
def _workspace() -> Workspace:
    """Return the folder in which stages called on their own keep their files; it goes with the process."""
    workspace = Workspace()
    atexit.register(workspace.__exit__, None, None, None)
    return workspace
