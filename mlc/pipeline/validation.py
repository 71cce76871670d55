"""A written model against its source: the interface, the numbers, and with data the accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir

from mlc.artifact import Origin
from mlc.compare import EXPORT_TOLERANCE, Check
from mlc.directory import MARK
from mlc.emulate import computes_half, saturation_proof
from mlc.errors import UsageError
from mlc.explaining import Explanation
from mlc.explaining.halves import HIGHEST
from mlc.figures import counted
from mlc.formats.operators import ON_CODES
from mlc.fusion import opset_of
from mlc.grammar.images import Images
from mlc.graph_pass import Pass
from mlc.judging import Report, judge, requirement, unusable
from mlc.layer_errors import LayerError
from mlc.machine import machine
from mlc.manifest import Located, locate
from mlc.measuring import Candidate, Trial, measure_accuracy, measure_agreement
from mlc.measuring.files import file_bytes
from mlc.pipeline.data import datasets, refuse_contradictions
from mlc.pipeline.explaining import explanation_of, samples_of, saturation_of
from mlc.pipeline.halves import STRICT, as_a_gpu_computes
from mlc.pipeline.layers import compared_layers, exported_like
from mlc.pipeline.run import Live, Progress, Run, silent
from mlc.pipeline.trials import metric_of
from mlc.plan import read_plan
from mlc.probes import references
from mlc.recipe import Recipe
from mlc.rewriting import check_files, check_half
from mlc.runtimes.strict import refuse_fallbacks
from mlc.sources.load import load
from mlc.sources.onnx.declared import declared
from mlc.sources.onnx.file import OnnxOriginal
from mlc.sources.onnx.safety import check_values
from mlc.sources.original import Original
from mlc.sources.specs import dim_text
from mlc.types import Dim, Drop, InputSpec, Limits, OutputSpec, Plan, Signature, Target
from mlc.workspace import Workspace

NO_LAYERS = ("values were not compared layer by layer, since the interfaces differ",)

DRAWN = "the inputs were drawn at random, which no calibration has seen: --data compares on samples that matter"
"""Of a quantized model: values outside of the calibrated ranges are clipped."""


def validate(
    model: Path,
    against: str,
    *,
    data: str | None = None,
    images: Images | None = None,
    metric: str | None = None,
    max_drop: Drop | None = None,
    inputs: tuple[InputSpec, ...] = (),
    target: Target = Target(),  # noqa: B008 - frozen
    seed: int = 0,
    task: str | None = None,
    trust: bool = False,
    strict_provider: bool = False,
    per_layer: bool = False,
    progress: Progress = silent,
) -> Report:
    """Compare a written model with its source; the report's outcome is missed where a requirement or a limit is.

    Input ranges are the artifact's own where ``inputs`` gives none. ``per_layer`` compares every value that both have
    too. Raises SourceError for a model or source that cannot be used; a model that differs is a verdict, not an error.
    """
    recipe = Recipe(
        against, inputs, data=data, images=images, metric=metric, limits=Limits(max_drop=max_drop), target=target,
        seed=seed, task=task,
    )  # fmt: skip
    refuse_contradictions(recipe, Live(), ())
    chosen = metric_of(recipe, Live())
    located = locate(model)
    with Workspace() as workspace:
        run = Run(recipe, workspace, progress)
        with run.stage("load"):
            original = _original(recipe, located, trust=trust)
            signature = original.signature
            problems = interface_problems(signature, declared(located.path))
            opset, floor = _read(located.path)
            strict = None if floor is None else _strict(original, located.path, run)
            origin = Origin(original.source, original.digest, "", opset, notes=original.notes)
        if problems:
            trial = Trial(Candidate(str(model), located.path), size_bytes=file_bytes(located.path))
            unlayered = NO_LAYERS if per_layer else ()
            return _report(run, origin, signature, located, (trial,), problems=problems, notes=unlayered)
        with run.stage("read data"):
            sets = datasets(recipe, Live(), signature, (), chosen)
        with run.stage("run the original"):
            kept, not_run = references(original, sets.first_samples(), seed)
        layers: tuple[LayerError, ...] = ()
        said: tuple[str, ...] = ()
        explanation: Explanation | None = None
        if per_layer:
            with run.stage("compare layer by layer"):
                baseline = exported_like(original, located.path, kept, run)
                layers, said = compared_layers(baseline, located.path, kept, run, data=sets.evaluation, floor=floor)
                if floor is not None:
                    run.plan = _plan_beside(located.path)
                    explanation = explanation_of(ir.load(baseline), located.path, sets, kept, run)
        saturation = saturation_of(ir.load(located.path), original.run, samples_of(sets.evaluation, kept), run)
        runs = None if sets.evaluation is None else original
        del original  # what nothing runs any more need not lie in memory beside the model
        candidate = Candidate(str(model), located.path, located.session_options, strict)
        with run.stage("measure"):
            if strict_provider:
                refuse_fallbacks(str(model), located.path, target, located.session_options)
            checks = check_files(located.path, kept, EXPORT_TOLERANCE, floor, located.session_options, target)
            if floor is not None:
                checks += check_half(located.path, kept, EXPORT_TOLERANCE, floor)
            if runs is not None and sets.evaluation is not None:
                ((accuracy, agreement),) = measure_accuracy(
                    [candidate], runs, sets.evaluation, chosen, target, seed=seed, progress=progress
                )
            else:
                usual = [reference for reference in kept if not reference.values]
                accuracy, (agreement,) = None, measure_agreement([candidate], usual, target)
        said += (DRAWN,) * (runs is None and floor is not None) + (STRICT,) * (strict is not None)
        trial = Trial(candidate, agreement, accuracy, size_bytes=file_bytes(located.path))
        described, notes = sets.described(), (*said, *not_run, *sets.notes)
        report = _report(run, origin, signature, located, (trial,), checks=checks, described=described, notes=notes)
        return replace(report, layers=layers, saturation=saturation, explanation=explanation)


def _strict(original: Original, path: Path, run: Run) -> Path | None:
    """Return what a model in float16 is judged by, unless its source computes in float16 itself."""
    if isinstance(original, OnnxOriginal) and computes_half(ir.load(original.path)):
        return None
    return as_a_gpu_computes(ir.load(path), run.recipe.target, run.workspace)


def _read(path: Path) -> tuple[int, float | None]:
    """Check the values of a model; return its opset, and the ratio in dB that its outputs are held to if quantized.

    Raises SourceError for weights that cannot be right. Nothing of the model is kept: it may be large.
    """
    model = ir.load(path)
    check_values(path, model)
    quantized = any(node.op_type in ON_CODES for graph in model.graphs() for node in graph)
    return opset_of(model), Pass.floor if quantized or _narrowed(model) else None


def _narrowed(model: ir.Model) -> bool:
    """Whether weights are of 16 bits between an interface of float32: something was rounded to them on the way."""
    interface = {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    held = {value.dtype for graph in model.graphs() for value in graph.initializers.values()}
    return bool(HIGHEST.keys() & held) and not HIGHEST.keys() & interface


def _plan_beside(path: Path) -> Plan | None:
    """Return the plan that a compiled model has beside it."""
    place = path.with_name("plan.toml")
    return read_plan(place).plan if path.with_name(MARK).is_file() and place.is_file() else None


def _original(recipe: Recipe, located: Located, *, trust: bool) -> Original:
    """Load the source, with the artifact's own input ranges where none are given and they fit."""
    if recipe.inputs or located.signature is None:
        return load(recipe.source, recipe.inputs, trust=trust, task=recipe.task)
    try:
        return load(recipe.source, located.signature.inputs, trust=trust, task=recipe.task)
    except UsageError:  # the interface differs: a verdict, where the source says itself what it takes
        return load(recipe.source, trust=trust, task=recipe.task)


def interface_problems(expected: Signature, actual: Signature) -> tuple[str, ...]:
    """Return one sentence for each input or output whose name, order, dtype, rank or fixed size is not the source's."""
    return (
        *_differing("input", expected.inputs, actual.inputs),
        *_differing("output", expected.outputs, actual.outputs),
        *_fixed("input", expected.inputs, actual.inputs),
        *_fixed("output", expected.outputs, actual.outputs),
    )


def _differing(
    kind: str, wanted: Sequence[InputSpec | OutputSpec], given: Sequence[InputSpec | OutputSpec]
) -> Iterator[str]:
    names = [[spec.name for spec in side] for side in (wanted, given)]
    if names[0] != names[1]:
        yield f"the {kind}s are {', '.join(names[1])}, the source's {', '.join(names[0])}"
        return
    for ours, theirs in zip(wanted, given, strict=True):
        if (ours.dtype, len(ours.dims)) != (theirs.dtype, len(theirs.dims)):
            yield (
                f"the {kind} {ours.name} is {theirs.dtype} of rank {len(theirs.dims)}, "
                f"the source's {ours.dtype} of rank {len(ours.dims)}"
            )


def _fixed(
    kind: str, wanted: Sequence[InputSpec | OutputSpec], given: Sequence[InputSpec | OutputSpec]
) -> Iterator[str]:
    """Yield a sentence for each axis that the model fixes at another size, or that the source lets vary."""
    by_name = {spec.name: spec for spec in given}
    for spec in wanted:
        theirs = by_name[spec.name].dims if spec.name in by_name else ()
        for axis, (ours, own) in enumerate(zip(spec.dims, theirs, strict=False)):
            size, asked = _size(own), _size(ours)
            if size is not None and size != asked and (kind == "input" or asked is not None):
                text = dim_text(ours) if isinstance(ours, Dim) else asked
                yield f"the {kind} {spec.name} is fixed at {size} along axis {axis}, the source's is {text}"


def _size(dim: Dim | int | str | None) -> int | None:
    """Return the size of an axis that is fixed, None for one that varies or is not known."""
    if isinstance(dim, Dim):
        return dim.low if dim.low == dim.high and dim.fixed else None
    return dim if isinstance(dim, int) else None


def _uncompared(problems: Sequence[str]) -> str:
    """Return the first line on a model of another interface, of which nothing else is known."""
    more = f" (and {counted(len(problems) - 1, 'more difference')})" if len(problems) > 1 else ""
    return f"Missed: interface: {problems[0]}{more}. No values were compared."


def _report(
    run: Run,
    origin: Origin,
    signature: Signature,
    located: Located,
    trials: tuple[Trial, ...],
    *,
    problems: Sequence[str] = (),
    checks: tuple[Check, ...] = (),
    described: Mapping[str, str] = MappingProxyType({}),
    notes: tuple[str, ...] = (),
) -> Report:
    requirements = [requirement("interface", "the source's", problems)]
    if not problems:
        broken = unusable(trials, checks)
        requirements.append(requirement("values", "of the source's shapes, finite where its are", broken))
    judgement = judge(trials, run.recipe.limits, requirements=requirements, written=False)
    return Report(
        recipe=run.recipe,
        origin=origin,
        signature=signature,
        steps=(),
        trials=trials,
        shipped=trials[0].candidate.name,
        verdicts=judgement.verdicts,
        outcome=judgement.outcome,
        first_line=_uncompared(problems) if problems else judgement.first_line,
        checks=checks,
        saturation=saturation_proof(ir.load(located.path)),
        data=described,
        machine=machine(),
        notes=notes,
        seconds=run.seconds,
        command="validate",
    )
