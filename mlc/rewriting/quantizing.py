"""Several lossy passes over one graph, by one plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import onnx_ir as ir

from mlc.artifact import Step
from mlc.errors import PassError
from mlc.figures import some
from mlc.formats import INTEGER_OPERATORS, KEPT_BY_PLAN
from mlc.graph_pass import Context, Pass
from mlc.plan import ORDER, Planner, as_done
from mlc.plan.planner import UNASKED
from mlc.rewriting.one_pass import NONE_LEFT, Line, Ran
from mlc.types import PassSpec, Plan

AMENDMENTS = 2
"""A plan is amended so often: what a better format has not helped gets another one."""

INTEGER = INTEGER_OPERATORS | {"QuantizeLinear"}
"""Operators of models that are quantized."""

Amend: TypeAlias = Callable[[ir.Model, ir.Model, Plan, Sequence[Step]], Plan]
"""Makes another plan, where it should be one, of the graph before, what came of it, the plan and the steps."""


@dataclass(frozen=True)
class Quantized:
    """What the passes made of a graph, and the plan as it came about."""

    ran: Ran
    plan: Plan


def as_planned(_before: ir.Model, _after: ir.Model, plan: Plan, _steps: Sequence[Step]) -> Plan:
    """Leave a plan as it is."""
    return plan


@dataclass(frozen=True)
class Quantizer:
    """The lossy passes of one run, how they divide the nodes, and the tolerance of what they are given."""

    line: Line
    passes: Sequence[tuple[Pass, PassSpec]]
    planner: Planner
    amend: Amend
    tolerance: float

    def quantize(self, model: ir.Model) -> Quantized:
        """Plan, run the passes by the plan, and once more where the plan is then amended; twice where that is too low.

        Raises PassError for a pass that did not do what was asked, UsageError for a plan that does not fit the graph.
        """
        subjects = [subject for subject, _ in self.passes]
        plan = self.planner.plan(model, subjects, Context(self.line.capabilities, seed=self.line.seed))
        ran = self._followed(model, plan, to_be_amended=self.amend is not as_planned)
        done = as_done(plan, ran.steps)
        for _ in range(AMENDMENTS):
            amended = self.amend(model, ran.model, done, ran.steps)
            if all(new.format == old.format for new, old in zip(amended.nodes, done.nodes, strict=True)):
                done = amended
                break
            plan, ran = amended, self._followed(model, amended, to_be_amended=True)
            done = as_done(amended, ran.steps)
            if not self._is_low(ran):
                break
        if self._is_low(ran):
            ran = self._followed(model, plan)  # which says what is too low, and which nodes lose most
        return Quantized(ran, done)

    def _is_low(self, ran: Ran) -> bool:
        """Whether an output is below the floor of the pass that it went through."""
        floors = {spec.name: subject.floor for subject, spec in self.passes}
        return any(ratio < floors[step.spec.name] for step in ran.steps for ratio in step.sqnr.values())

    def _followed(self, model: ir.Model, plan: Plan, *, to_be_amended: bool = False) -> Ran:
        """Run every pass that the plan gives nodes to, in the order of formats, whichever of them chose first."""
        ran, line = Ran(model), replace(self.line, to_be_amended=to_be_amended)
        for subject, spec in sorted(self.passes, key=_place):
            if not self.planner.leaves_out(subject, plan):
                ran = ran.then(line.run(subject, spec, ran.model, self.tolerance, plan))
                self.planner.refuse_unmet(plan, ran.steps[-1])
        if not ran.steps:
            names = " and ".join(one.name for one, _ in self.passes if one.name not in self.planner.reserve)
            raise PassError(f"the passes {names} have no node to convert", _reasons(plan) or NONE_LEFT)
        return ran


def _place(one: tuple[Pass, PassSpec]) -> int:
    """Return where the format of a pass stands among all; others come before them."""
    return ORDER.index(one[0].name) if one[0].name in ORDER else -1


def _reasons(plan: Plan) -> str:
    """Return why nodes stay float, those first that compute with integers already; nothing of those nobody asks of."""
    integer = [f"{entry.op} {entry.node} is quantized already" for entry in plan.nodes if entry.op in INTEGER]
    untold = ("", UNASKED, KEPT_BY_PLAN)
    told = integer or [f"{entry.node}: {entry.reason}" for entry in plan.nodes if entry.reason not in untold]
    return some(told)
