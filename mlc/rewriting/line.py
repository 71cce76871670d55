"""The line of passes over an artifact: each verified, each recorded as a Step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.artifact import Artifact, LeftOut, Step
from mlc.compare import EXPORT_TOLERANCE, Reference
from mlc.dims import second_sizes
from mlc.errors import MlcError, PassError
from mlc.fusion import array_of, opset_of
from mlc.graph_pass import Context, Exactness, Pass, Statistics
from mlc.invariants import snapshot
from mlc.registry import available, build, pass_class
from mlc.rewriting.lossy import Collected, settle_lossy
from mlc.rewriting.opset import raised
from mlc.rewriting.outputs import OutputJudge
from mlc.rewriting.sessions import Feeds, Runner, chosen
from mlc.rewriting.sites import SiteJudge, measure_with
from mlc.rewriting.trials import Trials, secured
from mlc.rewriting.verified import Settled, Verifier
from mlc.types import Capabilities, PassSpec, Plan, Target

if TYPE_CHECKING:
    from mlc.data import Data
    from mlc.workspace import Workspace

WEIGHTS_APART = 4
"""The IR version from which on a weight need not be an input: passes make new ones."""

CPU = Target()

RAISED_BY_DEFAULT = 20
"""The opset to which a file is raised for passes that nobody asked for: newer operators need a newer runtime too."""

OVERRIDE = 1.25
"""What a float default that a caller may override is multiplied with, to see that a pass did not build on it."""


@dataclass(frozen=True)
class Line:
    """What every pass of one run shares."""

    workspace: Workspace
    references: Sequence[Reference]
    capabilities: Capabilities
    requested: Collection[str]
    calibration: Data | None
    seed: int
    progress: Callable[[str], None]
    keep: Callable[[str, Plan, Statistics | None], None]
    target: Target

    def run(self, subject: Pass, spec: PassSpec, model: ir.Model, tolerance: float) -> tuple[ir.Model, Step]:
        """Run one pass and say how it went; the graph that comes back is right, whatever the pass did."""
        if opset_of(model) < subject.min_opset:
            note = f"it needs opset {subject.min_opset}, the model has {opset_of(model)}"
            return model, self.step(subject, spec, model, Settled(model, dropped=note))
        path = self.workspace.save(model, "before")
        context = Context(self.capabilities, seed=self.seed, progress=self.progress)
        trials = Trials(subject, model, snapshot(model, path), context, self.workspace)
        runner = Runner(self.workspace, self.judging_on(subject, model))
        outputs = OutputJudge(runner, self.references)
        if subject.exactness is Exactness.LOSSY:
            collected = Collected(self.calibration, self.capabilities, self.workspace, self.progress)
            lossy = settle_lossy(trials, collected, outputs, self.feeds(model))
            self.keep(subject.name, lossy.plan, lossy.statistics)
            return lossy.settled.model, replace(
                self.step(subject, spec, model, lossy.settled), sqnr=dict(lossy.sqnr), notes=lossy.notes
            )
        exact = subject.exactness is Exactness.EXACT
        sites = SiteJudge(runner, measure_with(subject.tolerance, exact=exact))
        settled = Verifier(trials, sites, outputs, self.feeds(model), tolerance + subject.tolerance).settle()
        return settled.model, self.step(subject, spec, model, settled)

    def raised(self, artifact: Artifact, model: ir.Model, opset: int) -> tuple[Artifact, ir.Model]:
        """Raise the opset of a model that is below what its passes need, if that is right, and note how it went."""
        if not 0 < opset_of(model) < opset:  # 0: it has none of the standard operators
            return artifact, model
        model, note = raised(model, opset, Runner(self.workspace), [reference.inputs for reference in self.references])
        notes = tuple(dict.fromkeys((*artifact.origin.notes, note)))
        return replace(artifact, origin=replace(artifact.origin, notes=notes)), model

    def judging_on(self, subject: Pass, model: ir.Model) -> Target:
        """Return where a pass is judged: on the CPU, and where operators have kernels of the target, on the target.

        It is the operators that the pass writes and that the model holds; what such a kernel computes is seen nowhere
        else.
        """
        held = {f"{node.domain}.{node.op_type}" for graph in model.graphs() for node in graph}
        ours = not held.union(subject.needs_kernels).isdisjoint(self.capabilities.kernels)
        return self.target if ours else CPU

    def feeds(self, model: ir.Model) -> list[Feeds]:
        """Return the inputs to judge sites with; the last also overrides the float defaults that a caller may."""
        feeds: list[Feeds] = [reference.inputs for reference in self.references]
        with np.errstate(over="ignore"):  # of the lowest float it is -inf
            changed = {
                str(value.name): np.asarray(array_of(value) * OVERRIDE, dtype=array_of(value).dtype)
                for value in model.graph.inputs
                if value.const_value is not None and value.const_value.dtype.is_floating_point()
            }
        overridden = {**feeds[-1], **changed}
        if not changed or not self._runs(model, overridden):
            return feeds
        return [*feeds[: max(1, len(feeds) - 1)], overridden]

    def _runs(self, model: ir.Model, feeds: Feeds) -> bool:
        """Whether a graph runs with these inputs: another default may not fit (scales of a Resize)."""
        try:
            Runner(self.workspace).run(model, feeds)
        except MlcError:
            return False
        return True

    def step(self, subject: Pass, spec: PassSpec, before: ir.Model, settled: Settled) -> Step:
        """Record how a pass went."""
        return Step(
            spec=spec,
            exactness=subject.exactness.value,
            requested=subject.name in self.requested,
            sites=settled.change.sites,
            refused=settled.change.refused,
            left_out=settled.left_out,
            dropped=settled.dropped,
            seconds=settled.seconds,
            verify_seconds=settled.verify_seconds,
            error=settled.error,
            nodes_before=count_nodes(before),
            nodes_after=count_nodes(settled.model),
        )


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
    seed: int = 0,
    strict: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
    keep: Callable[[str, Plan, Statistics | None], None] = lambda _name, _plan, _statistics: None,
) -> Artifact:
    """Run passes in the order given, verify each, and return the artifact with its steps.

    ``references`` are the original's answers, the traced sizes first. ``target`` is where passes are judged that write
    operators for which it has kernels, by its ``capabilities``; all others are judged on the CPU. ``keep`` is told the
    plan and the statistics of each lossy pass. Raises PassError for a pass in ``requested`` that was dropped whole, a
    lossy one that converted nothing or fell below its floor, and, under ``strict``, for any site left out.
    """
    second = second_sizes(artifact.signature.inputs, references[0].sizes) if references[0].sizes else {}
    line = Line(
        workspace, chosen(references, second), capabilities, requested, calibration, seed, progress, keep, target,
    )  # fmt: skip
    (component,) = artifact.components
    subjects = [spec if isinstance(spec, Pass) else build(spec) for spec in specs]
    wanted = (one.min_opset for one in subjects if one.name in requested or one.min_opset <= RAISED_BY_DEFAULT)
    needed = max(wanted, default=0)
    artifact, model = line.raised(artifact, secured(artifact.model, workspace), needed)
    model.ir_version = max(model.ir_version, WEIGHTS_APART)
    steps: list[Step] = []
    tolerance = tolerance_of(artifact.steps)
    for subject, spec in zip(subjects, specs, strict=True):
        progress(subject.name)
        model, step = line.run(subject, _spec_of(spec), model, tolerance)
        refuse(step, subject, strict=strict)
        steps.append(step)
        tolerance += subject.tolerance if step.sites else 0.0
    return replace(artifact, components={component: model}, steps=(*artifact.steps, *steps))


def refuse(step: Step, subject: Pass, *, strict: bool) -> None:
    """Raise PassError where a pass did not do what was asked."""
    name = subject.name
    if step.requested and step.dropped:
        raise PassError(f"the pass {name} was dropped: {step.dropped}", _named(step.left_out))
    if step.requested and subject.exactness is Exactness.LOSSY and not step.sites:
        reasons = "; ".join(f"{refusal.site}: {refusal.reason}" for refusal in step.refused[:3])
        raise PassError(f"the pass {name} converted no node", f"it refused {reasons}" if reasons else "leave it out")
    if strict and step.left_out:
        count = len(step.left_out)
        raise PassError(
            f"the pass {name} left out {count} of its sites, and --strict allows none", _named(step.left_out)
        )


def count_nodes(model: ir.Model) -> int:
    """Return the number of nodes of a model, subgraphs included."""
    return sum(len(graph) for graph in model.graphs())


def tolerance_of(steps: Sequence[Step]) -> float:
    """Return the tolerance of a file against the original after these steps: the export's and that of each pass."""
    return EXPORT_TOLERANCE + sum(_tolerance_of(step) for step in steps)


def _tolerance_of(step: Step) -> float:
    known = step.sites and step.spec.name in available()
    return pass_class(step.spec.name).tolerance if known else 0.0


def _named(left_out: Sequence[LeftOut]) -> str:
    named = [f"{each.site} ({each.reason})" for each in left_out[:3]]
    more = f" and {len(left_out) - len(named)} more" if len(left_out) > len(named) else ""
    return f"left out: {'; '.join(named)}{more}" if named else "leave it out with --pass none and the others by name"


def _spec_of(spec: PassSpec | Pass) -> PassSpec:
    return PassSpec(spec.name) if isinstance(spec, Pass) else spec
