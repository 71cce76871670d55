"""The end of the line: the measured files are checked once more, judged, described and put in their place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import onnx_ir as ir

from mlc.artifact import Artifact, Step
from mlc.compare import Check, Reference
from mlc.directory import replaced
from mlc.emulate import computes_half, rounded_half, saturation_proof
from mlc.errors import PassError, SourceError
from mlc.explaining import Explanation
from mlc.figures import decibels
from mlc.graph_pass import Exactness
from mlc.judging import Report, judge, unusable
from mlc.layer_errors import LayerError, layer_errors
from mlc.machine import machine
from mlc.manifest import write_manifest
from mlc.measuring import Trial
from mlc.pipeline.data import Datasets
from mlc.pipeline.explaining import explanation_of, samples_of, saturation_of
from mlc.pipeline.portable import portable_sentence
from mlc.pipeline.run import Run
from mlc.plan import plan_toml
from mlc.recipe import Recipe, asked_as, recipe_toml
from mlc.registry import lossy_of, pass_class
from mlc.report import write_reports
from mlc.rewriting import check_files, check_half
from mlc.rewriting.line import tolerance_of
from mlc.runtimes.loading import loading_lines, session_record
from mlc.runtimes.opening import open_session
from mlc.runtimes.session import SOFTWARE
from mlc.runtimes.strict import refuse
from mlc.statistics.store import FILE as STATISTICS
from mlc.types import Sizes, Target

WRITTEN = "written file"

NOTHING = "nothing was written; compile with --pass none to see whether a pass is the cause"


@dataclass(frozen=True)
class Shipped:
    """What is to be written, and everything that is known about it."""

    name: str
    artifact: Artifact
    trials: tuple[Trial, ...]
    references: tuple[Reference, ...]
    checks: tuple[Check, ...]
    sets: Datasets
    notes: tuple[str, ...] = ()
    unquantized: ir.Model | None = None

    @property
    def trial(self) -> Trial:
        """The trial of what is written."""
        return next(trial for trial in self.trials if trial.candidate.name == self.name)

    @property
    def sizes(self) -> Sizes:
        """The sizes at which it was measured, else those at which it was traced."""
        return self.trial.latency.sizes if self.trial.latency else self.references[0].sizes

    @property
    def lossy(self) -> bool:
        """Whether something in it was quantized."""
        return any(step.exactness == Exactness.LOSSY.value and step.sites for step in self.artifact.steps)


def ship(shipped: Shipped, out: Path | None, run: Run, *, force: bool) -> Report:
    """Check the files that were measured, with the options they ship with, and put them in their place with the report.

    Raises SourceError or PassError where they differ from the original, or give NaN on the data, TargetError where a
    strict provider was asked for and nodes fall back from it; then nothing is written.
    """
    problems = unusable([shipped.trial])
    if problems:
        error = PassError if shipped.lossy else SourceError
        raise error(f"on the evaluation data {problems[0]}", NOTHING)
    _refuse_low(shipped)
    placement = shipped.trial.placement
    if run.recipe.strict_provider and placement is not None:
        refuse(shipped.name, run.recipe.target, placement.assigned, placement.fallbacks)
    with _place(out, run, force=force) as directory:
        shutil.copytree(shipped.trial.candidate.path.parent, directory, dirs_exist_ok=True)
        checks = final_checks(shipped, directory / "model.onnx", run.recipe)
        report = report_of(shipped, checks, directory, out, run)
        _write_beside(shipped, report, directory, run)
        write_reports(report, directory)
        write_manifest(directory, shipped.artifact, machine(), shipped.sizes)
    return report


def _refuse_low(shipped: Shipped) -> None:
    """Raise PassError where an output is below the floor of a lossy pass on the evaluation data."""
    steps = [step for step in shipped.artifact.steps if step.exactness == Exactness.LOSSY.value and step.sites]
    floor = _floor(steps)
    if floor is None or shipped.sets.evaluation is None:
        return
    floats = {spec.name for spec in shipped.artifact.signature.outputs if "float" in spec.dtype}
    low = [each for each in shipped.trial.agreement if each.output in floats and each.sqnr < floor]
    if low:
        worst = min(low, key=lambda each: each.sqnr)
        raise PassError(
            f"on the evaluation data {steps[-1].spec.name} left {worst.output} at {decibels(worst.sqnr)}, below its "
            f"floor of {floor:g} dB",
            "give calibration data like the evaluated, or keep nodes float: `mlc quantize --explain` names the worst",
        )


@contextmanager
def _place(out: Path | None, run: Run, *, force: bool) -> Iterator[Path]:
    if out is None:
        yield run.workspace.folder("out")
        return
    with replaced(out, force=force) as directory:
        yield directory


def final_checks(shipped: Shipped, path: Path, recipe: Recipe) -> tuple[Check, ...]:
    """Compare the written file with the original's kept answers at every size. Raises where one differs."""
    lossy = [step for step in shipped.artifact.steps if step.exactness == Exactness.LOSSY.value and step.sites]
    tolerance, floor = tolerance_of(shipped.artifact.steps), _floor(lossy)
    checks = check_files(
        path,
        shipped.references,
        tolerance,
        floor,
        shipped.artifact.session_options,
        recipe.target,
        shipped.trials[0].candidate.path,
    )
    checks = tuple(replace(check, name=WRITTEN) for check in checks)
    if floor is not None:
        strict = check_half(path, shipped.references, tolerance, floor)
        checks += tuple(replace(check, name=f"{WRITTEN} in strict float16") for check in strict)
    for check in checks:
        wrong = next((difference for difference in check.differences if difference), None)
        if wrong is not None:
            error = PassError if shipped.lossy else SourceError
            raise error(
                f"the {check.name} differs from the original in {wrong.output}: {wrong.reason}",
                NOTHING,
            )
    return checks


def _floor(lossy: Sequence[Step]) -> float | None:
    """Return the lowest ratio in dB that lossy passes allow in an output, None where there is none."""
    return min((pass_class(step.spec.name).floor for step in lossy), default=None)


def report_of(shipped: Shipped, checks: tuple[Check, ...], directory: Path, out: Path | None, run: Run) -> Report:
    """Say everything that is known, computed from the written artifact."""
    recipe = run.recipe
    path = directory / "model.onnx"
    asked = [step for step in shipped.artifact.steps if step.requested and step.sites]
    judgement = judge(
        shipped.trials,
        recipe.limits,
        shipped=shipped.name,
        requested=list(dict.fromkeys(asked_as(recipe, step.spec.name) for step in asked)),
        headlines=[step.headline for step in asked if step.headline],
    )
    place = out.as_posix() if out is not None else ""
    return Report(
        recipe=recipe,
        origin=shipped.artifact.origin,
        signature=shipped.artifact.signature,
        steps=shipped.artifact.steps,
        trials=shipped.trials,
        shipped=shipped.name,
        verdicts=judgement.verdicts,
        outcome=judgement.outcome,
        first_line=judgement.first_line,
        checks=(*shipped.checks, *checks),
        layers=_layers(shipped, path, run),
        plan=run.plan if shipped.lossy else None,
        saturation=_saturation(shipped, path, run),
        explanation=_explanation(shipped, path, run),
        data=shipped.sets.described() | ({"statistics": run.statistics.described()} if run.statistics else {}),
        machine=machine(),
        loading=_loading(shipped, place, recipe.target),
        notes=(*shipped.notes, *([portable_sentence(path)] if recipe.portable else [])),
        seconds=run.seconds,
        directory=place,
        recipe_text=recipe_toml(recipe, out or directory),
        eager=run.eager,
        eager_name=run.eager_name,
    )


def _layers(shipped: Shipped, path: Path, run: Run) -> tuple[LayerError, ...]:
    data = shipped.sets.evaluation or shipped.sets.calibration
    if not shipped.lossy or data is None:
        return ()
    baseline, model = shipped.trials[0].candidate.path, ir.load(path)
    judged = run.workspace.save(rounded_half(model), "half") if computes_half(model) else path
    batches = [batch for _, batch in zip(range(2), data.batches(), strict=False)]
    return layer_errors(baseline, judged, batches, run.workspace)


def _saturation(shipped: Shipped, path: Path, run: Run) -> tuple[str, ...]:
    if not shipped.lossy:
        return saturation_proof(ir.load(path))
    samples = samples_of(shipped.sets.evaluation or shipped.sets.calibration, shipped.references)
    with ExitStack() as opened:  # nobody asks the baseline where nothing can saturate
        baseline = cache(lambda: opened.enter_context(open_session(shipped.trials[0].candidate.path, Target())))
        return saturation_of(ir.load(path), lambda feeds: baseline().run(feeds), samples, run)


def _explanation(shipped: Shipped, path: Path, run: Run) -> Explanation | None:
    if shipped.unquantized is None or not shipped.lossy:
        return None
    return explanation_of(shipped.unquantized, path, shipped.sets, shipped.references, run, deep=False)


def _loading(shipped: Shipped, place: str, target: Target) -> str:
    """Return the lines that run the written model with its runtime alone."""
    placement = shipped.trial.placement
    return loading_lines(
        Path(place, "model.onnx").as_posix(),
        [spec.name for spec in shipped.artifact.signature.inputs],
        target,
        shipped.artifact.session_options,
        software=placement is not None and placement.device.startswith(SOFTWARE),
    )


def _write_beside(shipped: Shipped, report: Report, directory: Path, run: Run) -> None:
    session = session_record(run.recipe.target, shipped.artifact.session_options)
    _write(directory / "session.json", json.dumps(session, indent=2) + "\n")
    _write(directory / "recipe.toml", report.recipe_text)
    if report.plan is not None:
        passes = lossy_of(step.spec for step in shipped.artifact.steps)
        costs = {node.node: str(node) for node in report.explanation.nodes} if report.explanation else {}
        _write(directory / "plan.toml", plan_toml(report.plan, passes, costs))
        if run.statistics is not None:
            run.statistics.save(directory / STATISTICS)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
