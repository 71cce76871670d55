"""The line of passes over an artifact: each verified, each recorded as a Step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlc.artifact import Artifact, Step
from mlc.compare import EXPORT_TOLERANCE, Reference
from mlc.dims import second_sizes
from mlc.errors import PassError, foreign
from mlc.fusion import opset_of
from mlc.graph_pass import Context, Exactness, Pass
from mlc.plan import EACH, Planner
from mlc.registry import available, build, pass_class
from mlc.rewriting.one_pass import CPU, Line, Ran
from mlc.rewriting.opset import raised
from mlc.rewriting.quantizing import Amend, Quantizer, as_planned
from mlc.rewriting.sessions import Runner, chosen
from mlc.rewriting.trials import secured
from mlc.statistics import Store
from mlc.types import Capabilities, PassSpec, Plan, Target

if TYPE_CHECKING:
    from mlc.data import Data
    from mlc.workspace import Workspace

WEIGHTS_APART = 4
"""The IR version from which on a weight need not be an input: passes make new ones."""

RAISED_BY_DEFAULT = 20
"""A file is raised beyond this opset where passes find something to do there: it needs a newer runtime then."""


ROUNDS = 4
"""So often the passes run at most; more than two rounds were needed by no model that was tried."""


UNSETTLED = f"passes may find more: they ran {ROUNDS} times, and something changed each time"


class Raising(Enum):
    """For which passes the opset of a model is raised to what they need."""

    NEVER = "for none"
    ASKED = "for those that were asked for, and up to an old opset for the others"
    ANY = "for all that find a site"


def rewrite(
    artifact: Artifact,
    specs: Sequence[PassSpec | Pass],
    *,
    references: Sequence[Reference],
    workspace: Workspace,
    capabilities: Capabilities,
    target: Target = CPU,
    requested: Collection[str] = (),
    calibration: Data | None = None,
    statistics: Store | None = None,
    seed: int = 0,
    strict: bool = False,
    raising: Raising = Raising.ASKED,
    progress: Callable[[str], None] = lambda _text: None,
    planner: Planner = EACH,
    amend: Amend = as_planned,
    keep: Callable[[Plan, Store | None], None] = lambda _plan, _statistics: None,
) -> Artifact:
    """Run passes in the order given, verify each, and return the artifact with its steps.

    ``planner`` divides the nodes among the lossy passes, on the graph that the first of them is given; ``amend`` may
    change the plan once, when it is seen what came of it. ``references`` are the original's answers, the traced sizes
    first. ``target`` is where passes are judged that write operators for which it has kernels, by its ``capabilities``;
    all others are judged on the CPU, and a runtime of its own has to load what they leave. Lossy passes read
    ``statistics`` of a file, else what is collected on the ``calibration`` data. ``keep`` is told the plan as it came
    about, and what was read. Raises PassError for a pass in ``requested`` that was dropped whole, a lossy one that
    converted nothing or fell below its floor, and, under ``strict``, for any site left out; UsageError for a plan that
    does not fit the graph, DataError for statistics of another graph. ``raising`` says for which of them the opset may
    be raised.
    """
    second = second_sizes(artifact.signature.inputs, references[0].sizes) if references[0].sizes else {}
    line = Line(
        workspace, chosen(references, second), capabilities, requested, calibration, seed, strict, progress, target,
        statistics or Store(),
    )  # fmt: skip
    (component,) = artifact.components
    subjects = [spec if isinstance(spec, Pass) else build(spec) for spec in specs]
    passes = [(subject, _spec_of(spec)) for subject, spec in zip(subjects, specs, strict=True)]
    model = secured(artifact.model, workspace)
    model, notes = _as_needed(model, subjects, line, raising)
    _refuse_old(model, subjects, requested, notes, raising)
    model.ir_version = max(model.ir_version, WEIGHTS_APART)
    ran, tolerance = Ran(model), tolerance_of(artifact.steps)
    for lossy, group in groupby(passes, lambda one: one[0].exactness is Exactness.LOSSY):
        if lossy:
            quantized = Quantizer(line, list(group), planner, amend, tolerance).quantize(ran.model)
            ran = ran.then(quantized.ran)
            keep(quantized.plan, line.store if quantized.ran.statistics else None)
            continue
        ran, tolerance = _to_fixed_point(list(group), line, ran, tolerance)
        if ran.statistics is not None:
            keep(Plan(), line.store)
    origin = replace(artifact.origin, notes=tuple(dict.fromkeys((*artifact.origin.notes, *notes))))
    return replace(artifact, components={component: ran.model}, steps=(*artifact.steps, *ran.steps), origin=origin)


def _refuse_old(
    model: ir.Model, subjects: Sequence[Pass], requested: Collection[str], notes: Sequence[str], raising: Raising
) -> None:
    """Raise PassError for a pass that was asked for where the opset it needs was not reached, with the reason."""
    old = (one for one in subjects if one.name in requested and 0 < opset_of(model) < one.min_opset)
    lacking = next(old, None)
    if lacking is None:
        return
    needs = f"the pass {lacking.name} needs opset {lacking.min_opset}"
    if raising is Raising.NEVER:
        keeping = "leave out --opset, which keeps it there, or what asked for the pass"
        raise PassError(f"{needs}, and the model has {opset_of(model)}", keeping)
    if notes:
        raise PassError(
            f"{needs}, and {notes[-1]}",
            f"export the model at opset {lacking.min_opset} or newer, or leave out what asked for the pass",
        )


def _to_fixed_point(
    passes: Sequence[tuple[Pass, PassSpec]], line: Line, ran: Ran, tolerance: float
) -> tuple[Ran, float]:
    """Run passes in their order, and all once more where one changed something, for what that made of other sites.

    One that left sites out is not asked again: it would try them again. What was asked for was done in the first round.
    """
    for again in range(ROUNDS):
        changed = False
        for subject, spec in passes:
            if again and any(step.left_out or step.dropped for step in ran.steps if step.spec == spec):
                continue
            one = line.run(subject, spec, ran.model, tolerance)
            last = one.steps[-1]
            if spec in [step.spec for step in ran.steps] and not (last.sites or last.left_out or last.dropped):
                continue  # it ran before, and what it had to say then holds
            ran, changed = ran.then(one), changed or bool(last.sites)
            tolerance += subject.tolerance if last.sites else 0.0
        if not changed:
            return ran, tolerance
        line = replace(line, requested=())
    *before, last = ran.steps
    return replace(ran, steps=(*before, replace(last, notes=(*last.notes, UNSETTLED)))), tolerance


def _as_needed(
    model: ir.Model, subjects: Sequence[Pass], line: Line, raising: Raising
) -> tuple[ir.Model, tuple[str, ...]]:
    """Raise the opset of a model that is below what its passes need, if that is right, and note how it went.

    Newer operators need a newer runtime too, and have kernels on onnxruntime's CPU provider: for a pass that nobody
    asked for, a model is raised to them only there, and where the pass then finds a site. A lossy one that nobody asked
    for is for outliers, of which there may be none.
    """
    if raising is Raising.NEVER:
        return model, ()
    asked = [one for one in subjects if one.name in line.requested or one.min_opset <= RAISED_BY_DEFAULT]
    able = raising is Raising.ANY and line.capabilities.cpu and line.target.runtime == "onnxruntime"
    others = [one for one in subjects if able and one not in asked and one.exactness is not Exactness.LOSSY]
    needed, newest = (max((one.min_opset for one in each), default=0) for each in (asked, others))
    notes: list[str] = []
    for opset, worth in ((newest, lambda after: _finds(after, subjects, others, line)), (needed, lambda _after: True)):
        if not 0 < opset_of(model) < opset:  # 0: it has none of the standard operators
            continue
        feeds = [reference.inputs for reference in line.references]
        model, note = raised(model, opset, Runner(line.workspace), feeds, worth)
        notes += [note] if note else []
    return model, tuple(notes)


def _finds(model: ir.Model, subjects: Sequence[Pass], wanted: Collection[Pass], line: Line) -> bool:
    """Whether a pass that is wanted finds a site, once the exact ones before it were applied; nothing is verified."""
    trial = model.clone()
    for subject in subjects:
        if subject in wanted or (subject.exactness is Exactness.EXACT and not subject.calibrates):
            with foreign(f"the pass {subject.name}", PassError):
                change = subject.apply(trial, Context(line.capabilities, seed=line.seed))
            if subject in wanted and change.sites:
                return True
    return False


def tolerance_of(steps: Sequence[Step]) -> float:
    """Return the tolerance of a file against the original after these steps: the export's and that of each pass."""
    return EXPORT_TOLERANCE + sum(_tolerance_of(step) for step in steps)


def _tolerance_of(step: Step) -> float:
    known = step.sites and step.spec.name in available()
    return pass_class(step.spec.name).tolerance if known else 0.0


def _spec_of(spec: PassSpec | Pass) -> PassSpec:
    return PassSpec(spec.name) if isinstance(spec, Pass) else spec
