"""One pass of a run: verified, recorded as a Step, refused where it did not do what was asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.artifact import LeftOut, Step
from mlc.compare import Reference
from mlc.errors import MlcError, PassError
from mlc.figures import some
from mlc.fusion import Places, array_of, opset_of
from mlc.graph_pass import Context, Exactness, Pass, Statistics
from mlc.invariants import snapshot
from mlc.plan.planner import UNASKED
from mlc.rewriting.lossy import Collected, settle_lossy
from mlc.rewriting.outputs import OutputJudge
from mlc.rewriting.sessions import Feeds, Runner
from mlc.rewriting.sites import SiteJudge, measure_with
from mlc.rewriting.trials import Trials
from mlc.rewriting.verified import Settled, Verifier
from mlc.types import Capabilities, PassSpec, Plan, Refusal, Target

if TYPE_CHECKING:
    from mlc.data import Data
    from mlc.statistics import Store
    from mlc.workspace import Workspace

CPU = Target()

NONE_LEFT = (
    "the model has none that is float32, large enough, in a form that the pass knows, not kept float and not taken by "
    "another pass: mlc passes NAME says what it converts"
)

OVERRIDE = 1.25
"""What a float default that a caller may override is multiplied with, to see that a pass did not build on it."""


@dataclass(frozen=True)
class Ran:
    """The graph after one or several passes, how each went, and the statistics that one read."""

    model: ir.Model
    steps: tuple[Step, ...] = ()
    statistics: Statistics | None = None

    def then(self, other: Ran) -> Ran:
        """Return what ran with what ran after it."""
        return Ran(other.model, (*self.steps, *other.steps), other.statistics or self.statistics)


@dataclass(frozen=True)
class Line:
    """What every pass of one run shares; outputs may be below the floor of a pass whose plan is ``to_be_amended``."""

    workspace: Workspace
    references: Sequence[Reference]
    capabilities: Capabilities
    requested: Collection[str]
    calibration: Data | None
    seed: int
    strict: bool
    progress: Callable[[str], None]
    target: Target
    store: Store
    to_be_amended: bool = False

    def run(self, subject: Pass, spec: PassSpec, model: ir.Model, tolerance: float, plan: Plan | None = None) -> Ran:
        """Run one pass; the graph that comes back is right, whatever the pass did.

        ``tolerance`` is that of the graph before, against the original; a lossy pass has a ``plan``. Raises PassError
        where the pass did not do what was asked.
        """
        self.progress(subject.name)
        ran = self._run(subject, spec, model, tolerance, plan or Plan())
        for step in ran.steps:
            refuse(step, subject, strict=self.strict, plan=plan or Plan())
        return ran

    def _run(self, subject: Pass, spec: PassSpec, model: ir.Model, tolerance: float, plan: Plan) -> Ran:
        if opset_of(model) < subject.min_opset:
            note = f"it needs opset {subject.min_opset}, the model has {opset_of(model)}"
            return Ran(model, (self.step(subject, spec, model, Settled(model, dropped=note)),))
        path = self.workspace.save(model, "before")
        context = Context(self.capabilities, seed=self.seed, progress=self.progress)
        trials = Trials(subject, model, snapshot(model, path), context, self.workspace)
        runner = Runner(self.workspace, self.judging_on(subject, model))
        outputs = OutputJudge(runner, self.references)
        collected = Collected(plan, self.calibration, self.workspace, self.progress, self.store)
        if subject.exactness is Exactness.LOSSY:
            lossy = settle_lossy(trials, collected, outputs, self.feeds(model), to_be_amended=self.to_be_amended)
            step = self.step(subject, spec, model, lossy.settled)
            refused = _of_the_plan(step.refused, plan, model, subject.name)
            step = replace(step, sqnr=dict(lossy.sqnr), notes=lossy.notes, refused=refused)
            return Ran(lossy.settled.model, (step,), lossy.statistics)
        statistics = collected.statistics(subject, model)
        trials = replace(trials, context=replace(context, statistics=statistics))
        exact = subject.exactness is Exactness.EXACT
        sites = SiteJudge(runner, measure_with(subject.tolerance, exact=exact))
        allowed = tolerance + subject.tolerance
        settled = Verifier(trials, sites, outputs, self.feeds(model), allowed, self.target).settle()
        step = self.step(subject, spec, model, settled)
        return Ran(settled.model, (replace(step, notes=settled.change.notes),), statistics)

    def judging_on(self, subject: Pass, model: ir.Model) -> Target:
        """Return where a pass is judged: on the CPU, and where operators have kernels of the target, on the target.

        It is the operators that the pass writes and that the model holds; what such a kernel computes is seen nowhere
        else.
        """
        held = {f"{node.domain}.{node.op_type}" for graph in model.graphs() for node in graph}
        written = {*subject.needs_kernels, *subject.may_use_kernels}
        ours = not held.union(written).isdisjoint(self.capabilities.kernels)
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
            headline=settled.change.headline,
            seconds=settled.seconds,
            verify_seconds=settled.verify_seconds,
            error=settled.error,
            nodes_before=count_nodes(before),
            nodes_after=count_nodes(settled.model),
        )


def _of_the_plan(refused: Sequence[Refusal], plan: Plan, model: ir.Model, name: str) -> tuple[Refusal, ...]:
    """Leave out nodes that lossy passes made, of which nobody asked anything; first come those that the plan gives."""
    formats = {entry.node: entry.format for entry in plan.nodes}
    places = Places(model)
    made = {places.site(node) for node in places.nodes()} - formats.keys() if formats else set()
    return tuple(
        sorted((each for each in refused if each.site not in made), key=lambda each: formats.get(each.site) != name)
    )


def refuse(step: Step, subject: Pass, *, strict: bool, plan: Plan) -> None:
    """Raise PassError where a pass did not do what was asked, with its reasons, or those that the plan had before."""
    name = subject.name
    if step.requested and step.dropped:
        raise PassError(f"the pass {name} was dropped: {step.dropped}", _named(step.left_out))
    if step.requested and subject.exactness is Exactness.LOSSY and not step.sites:
        planned = [Refusal(entry.node, entry.reason) for entry in plan.nodes if entry.reason not in ("", UNASKED)]
        told = dict.fromkeys(f"{each.site}: {each.reason}" for each in (*step.refused, *planned))
        reasons = some([*told])
        raise PassError(f"the pass {name} converted no node", f"it refused {reasons}" if reasons else NONE_LEFT)
    if strict and step.left_out:
        count = len(step.left_out)
        raise PassError(
            f"the pass {name} left out {count} of its sites, and --strict allows none", _named(step.left_out)
        )


def count_nodes(model: ir.Model) -> int:
    """Return the number of nodes of a model, subgraphs included."""
    return sum(len(graph) for graph in model.graphs())


def _named(left_out: Sequence[LeftOut]) -> str:
    named = [f"{each.site} ({each.reason})" for each in left_out[:3]]
    more = f" and {len(left_out) - len(named)} more" if len(left_out) > len(named) else ""
    return f"left out: {'; '.join(named)}{more}" if named else "leave it out with --pass none and the others by name"
