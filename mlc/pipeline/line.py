"""The whole line on one screen: a recipe goes in, a verified, measured, reported artifact comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlc.artifact import Artifact
from mlc.compare import Reference
from mlc.data import Data
from mlc.directory import check_place
from mlc.exporting import export
from mlc.exporting.cache import default_cache
from mlc.judging import Report, choose
from mlc.pipeline.data import datasets, refuse_contradictions, replayable
from mlc.pipeline.opset import export_opset
from mlc.pipeline.optimizers import settled, without_optimizers
from mlc.pipeline.portable import refuse_custom
from mlc.pipeline.run import Live, Progress, Run, either, silent
from mlc.pipeline.shipping import Shipped, ship
from mlc.pipeline.timing import bench
from mlc.pipeline.trials import eager_of, metric_of, trials_of
from mlc.pipeline.validation import validate
from mlc.probes import references
from mlc.recipe import Recipe, check_sizes
from mlc.recipe.files import check_apart
from mlc.registry import lossy_of, probes_of, runnable, schedule
from mlc.rewriting import rewrite
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.one_node import try_target
from mlc.sources.load import load
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
    progress: Progress = silent,
) -> Report:
    """Load, export, rewrite, measure, judge and write; every step is compared with the original.

    Raises an MlcError that carries the exit code; then nothing is at ``out`` that was not there before. Without ``out``
    everything is done and nothing is kept. ``force`` replaces an output that exists; ``trust`` runs code that a model
    file holds; ``cache`` takes the export from an earlier run, where nothing that decides it has changed.
    """
    live = live or Live()
    specs = schedule(recipe.passes, defaults=recipe.defaults, portable=recipe.portable)
    lossy = lossy_of(specs)
    refuse_contradictions(recipe, live, lossy)
    metric = metric_of(recipe, live)
    try_target(recipe.target)
    able = capabilities(recipe.target, probes_of(specs))
    exact = [spec for spec in runnable(specs, recipe.passes, recipe.target, able) if spec not in lossy]
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
        with run.stage("read data"):
            sets = datasets(recipe, live, original.signature, lossy, metric)
            run.recipe = recipe = replayable(recipe, live, original.source, sets)
        with run.stage("run the original"):
            kept, not_run = references(original, sets.first_samples(), recipe.seed)
        with run.stage("export"):
            opset = export_opset(recipe, (*exact, *lossy), original, able)
            exported, checks = export(original, kept, workspace, opset, cache=default_cache() if cache else None)
            run.recipe = recipe = replace(recipe, opset=exported.origin.opset)
            if recipe.portable:
                refuse_custom(exported.model)
        with run.stage("rewrite"):
            rewritten = rewritten_by(exact, exported, kept, run, able=able)
        with run.stage("quantize"):
            final = rewritten_by(lossy, rewritten, kept, run, able=able, calibration=sets.calibration)
        stages = {EXPORTED: exported, REWRITTEN: rewritten, "+".join(spec.name for spec in lossy): final}
        models = without_optimizers(changed_only(stages), recipe.target)
        with run.stage("measure"):
            trials = trials_of(models, original=original, sets=sets, metric=metric, kept=kept, run=run)
            run.eager, run.eager_name = eager_of(original, kept, sets, recipe), original.eager
        asked = any(step.requested and step.sites for step in final.steps)
        name = settled(trials, choose(trials, asked))
        shipped = Shipped(name, models[name], trials, kept, checks, sets, (*not_run, *sets.notes))
        with run.stage("write"):
            return ship(shipped, out, run, force=force)


def rewritten_by(
    specs: Sequence[PassSpec],
    artifact: Artifact,
    kept: Sequence[Reference],
    run: Run,
    *,
    able: Capabilities,
    calibration: Data | None = None,
) -> Artifact:
    """Run passes over an artifact, each verified against the original's kept answers."""
    return rewrite(
        artifact,
        specs,
        references=kept,
        workspace=run.workspace,
        capabilities=able,
        target=run.recipe.target,
        requested=[spec.name for spec in run.recipe.passes],
        calibration=calibration,
        seed=run.recipe.seed,
        strict=run.recipe.strict,
        progress=run.progress,
        keep=run.keep,
    )


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
