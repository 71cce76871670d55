"""The whole line on one screen: a recipe goes in, a verified, measured, reported artifact comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mlc.artifact import Artifact
from mlc.compare import Reference
from mlc.data import Data
from mlc.directory import check_place
from mlc.exporting import export
from mlc.exporting.cache import default_cache
from mlc.graph_pass import Exactness
from mlc.judging import Report, choose
from mlc.pipeline.data import datasets, refuse_contradictions, refuse_missing_data, replayable
from mlc.pipeline.explaining import explained_only
from mlc.pipeline.freezing import frozen
from mlc.pipeline.opset import able_for, exported_for
from mlc.pipeline.optimizers import settled, without_optimizers
from mlc.pipeline.outliers import amend_for
from mlc.pipeline.portable import refuse_custom
from mlc.pipeline.quantizing import Quantizing, notes_of_plan, quantizing, telling_of_probes
from mlc.pipeline.run import Live, Progress, Run, either, silent
from mlc.pipeline.shipping import Shipped, ship
from mlc.pipeline.timing import bench
from mlc.pipeline.trials import eager_name, eager_of, metric_of, trials_of
from mlc.pipeline.validation import validate
from mlc.probes import references
from mlc.recipe import Recipe, check_sizes
from mlc.recipe.files import check_apart
from mlc.registry import lossy_of, runnable, schedule
from mlc.report.history import not_written
from mlc.rewriting import Amend, Raising, as_planned, rewrite
from mlc.runtimes.one_node import try_target
from mlc.sources.load import load
from mlc.sources.onnx.file import OnnxOriginal
from mlc.statistics import Store
from mlc.types import Capabilities, PassSpec
from mlc.workspace import Workspace

__all__ = ["Live", "bench", "compile", "validate"]

EXPORTED, REWRITTEN = "unmodified export", "rewritten"


def compile(  # noqa: A001 - the word of the field
    recipe: Recipe,
    out: Path | None,
    *,
    force: bool = False,
    trust: bool = False,
    cache: bool = True,
    live: Live | None = None,
    explain: bool = False,
    progress: Progress = silent,
) -> Report:
    """Load, export, rewrite, measure, judge and write; every step is compared with the original.

    Raises an MlcError that carries the exit code; then nothing is at ``out`` that was not there before. Without ``out``
    everything is done and nothing is kept. ``force`` replaces an output that exists; ``trust`` runs code that a model
    file holds; ``cache`` takes the export from an earlier run, where nothing that decides it has changed. With
    ``explain`` the run ends behind the passes and says where the quantized model loses: nothing is measured or written.
    """
    live = live or Live()
    asked = quantizing(recipe, live)
    specs = schedule(asked.all, defaults=recipe.defaults, portable=recipe.portable)
    lossy = lossy_of(specs)
    refuse_contradictions(recipe, live, specs)
    metric = metric_of(recipe, live)
    try_target(recipe.target)
    able = able_for(recipe, specs)
    exact = [spec for spec in runnable(specs, asked.passes, recipe.target, able) if spec not in lossy]
    if out is not None:
        check_apart(recipe, out)
        check_place(out, force=force)
    with Workspace() as workspace:
        run = Run(recipe, workspace, progress)
        with run.stage("load"):
            original = load(
                either(live.module, recipe.source), recipe.inputs, live.example, trust=trust, task=recipe.task
            )
            check_sizes(recipe.at, original.signature.inputs)
            refuse_missing_data(recipe, live, specs, divided=asked.planner.mixed)  # last: it would hide all else
        with run.stage("read data"):
            sets = datasets(recipe, live, original.signature, specs, metric)
            run.recipe = recipe = replayable(recipe, live, original.source, sets)
        with run.stage("run the original"):
            kept, not_run = references(original, sets.first_samples(), recipe.seed)
        with run.stage("export"):
            at = partial(export, original, kept, workspace, cache=default_cache() if cache else None)
            exported, checks = exported_for(recipe, (*exact, *lossy), original, able, workspace=workspace, export=at)
            if not isinstance(original, OnnxOriginal):  # a file's own may be raised, unless it was asked for
                run.recipe = recipe = replace(recipe, opset=exported.origin.opset)
            exported = _as_asked(exported, recipe)
        with run.stage("rewrite"):
            store = sets.statistics or Store()
            rewritten = rewritten_by(
                exact, exported, kept, run, asked, able=able, calibration=sets.calibration, statistics=store
            )
        with run.stage("quantize"), telling_of_probes(sets):
            final = rewritten_by(
                lossy, rewritten, kept, run, asked, able=able, calibration=sets.calibration, statistics=store,
                amend=amend_for(recipe, sets, kept, able, workspace),
            )  # fmt: skip
        if explain:
            with run.stage("explain"):
                notes = (*not_run, *sets.notes, *notes_of_plan(sets, run, asked, final.model))
                found = Shipped("", final, (), kept, checks, sets, notes, rewritten.model)
                return explained_only(found, original, run)
        stages = {EXPORTED: exported, REWRITTEN: rewritten, quantized_name(final): final}
        models = without_optimizers(changed_only(stages), recipe.target)
        with run.stage("measure"):
            trials = trials_of(models, original=original, sets=sets, metric=metric, kept=kept, run=run)
            run.eager, run.eager_name = eager_of(original, kept, sets, recipe), eager_name(original, able)
        wanted = any(step.requested and step.sites for step in final.steps)
        name = settled(trials, choose(trials, wanted))
        notes = (
            *not_run, *sets.notes, *notes_of_plan(sets, run, asked, final.model),
            *not_written(final.steps[len(models[name].steps) :]),
        )  # fmt: skip
        shipped = Shipped(name, models[name], trials, kept, checks, sets, notes, rewritten.model)
        with run.stage("write"):
            return ship(shipped, out, run, force=force)


def _as_asked(exported: Artifact, recipe: Recipe) -> Artifact:
    """Return an export with what a caller may override as asked. Raises SourceError for what is not portable."""
    if recipe.portable:
        refuse_custom(exported.model)
    return frozen(exported) if recipe.freeze else exported


def rewritten_by(
    specs: Sequence[PassSpec],
    artifact: Artifact,
    kept: Sequence[Reference],
    run: Run,
    asked: Quantizing,
    *,
    able: Capabilities,
    calibration: Data | None = None,
    statistics: Store | None = None,
    amend: Amend = as_planned,
) -> Artifact:
    """Run passes over an artifact, each verified against the original's kept answers."""
    return rewrite(
        artifact,
        specs,
        references=kept,
        workspace=run.workspace,
        capabilities=able,
        target=run.recipe.target,
        requested=[spec.name for spec in asked.passes],
        calibration=calibration,
        statistics=statistics,
        seed=run.recipe.seed,
        strict=run.recipe.strict,
        raising=Raising.ANY if run.recipe.opset is None else Raising.NEVER,
        progress=run.progress,
        planner=asked.planner,
        amend=amend,
        keep=run.keep,
    )


def quantized_name(artifact: Artifact) -> str:
    """Return the formats that are in a model, as the name of its row in the report."""
    return "+".join(step.spec.name for step in artifact.steps if step.exactness == Exactness.LOSSY.value)


def changed_only(stages: dict[str, Artifact]) -> dict[str, Artifact]:
    """Leave out stages whose passes changed nothing: they are the same model once more."""
    models: dict[str, Artifact] = {}
    done = 0
    for name, artifact in stages.items():
        changes = sum(1 for step in artifact.steps if step.sites)
        if not models or changes > done:
            models[name] = artifact
        done = changes
    return models
