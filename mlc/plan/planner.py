"""Plans of several passes over one graph: each takes what the passes before it left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlc.errors import PassError, UsageError, foreign
from mlc.formats import INT8_STATIC, KEPT_BY_PLAN
from mlc.grammar import nearest
from mlc.graph_pass import Exactness
from mlc.plan.chains import convolution_chains, slow_heads
from mlc.plan.kept import kept_sites, nodes_by_site
from mlc.plan.narrow import narrow_products
from mlc.types import FLOAT, NodePlan, Plan

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.artifact import Step
    from mlc.graph_pass import Context, Pass

ASKED_FLOAT = "kept float: asked for"

UNNAMED = "the plan's file does not name it"

UNASKED = "no format is for it"

AROUND = "the nodes around it have no such form"

INT8_DYNAMIC = "int8-dynamic"

ONNXRUNTIME = frozenset({INT8_STATIC, INT8_DYNAMIC})
"""What int8 is made of on onnxruntime's CPU provider, which is the one whose slow kernels are known."""

DECIDING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather"})
"""Operators with weights; in what form others run follows from those around them."""


@dataclass(frozen=True)
class Planner:
    """How the nodes of a graph are divided among the formats.

    ``kept`` are names or patterns of nodes that stay float. ``given`` is a plan from a file, which then decides.
    ``mixed`` says that the passes divide the nodes by what pays: int8-static takes convolutions and what hangs on them
    alone, int8-dynamic no product of few columns, and a pass that is left without a node does nothing. Passes in
    ``reserve`` take what an amended plan gives them.
    """

    kept: tuple[str, ...] = ()
    given: Plan | None = None
    mixed: bool = False
    reserve: tuple[str, ...] = ()

    def plan(self, model: ir.Model, passes: Sequence[Pass], context: Context) -> Plan:
        """Return the format of every node of a graph. Raises UsageError for nodes that it does not have."""
        kept = kept_sites(model, self.kept)
        if self.given is not None:
            return _checked(self.given, model, passes, context, kept)
        first = [one for one in passes if one.name not in self.reserve]
        if self.mixed and len(passes) > 1:
            return _divided(model, first, context, kept)
        return plan_for(model, first, context, kept)

    def leaves_out(self, subject: Pass, plan: Plan) -> bool:
        """Whether a pass has nothing to do, which is right where several divide the nodes, and in reserve."""
        may_idle = self.mixed or subject.name in self.reserve
        idle = all(entry.format != subject.name for entry in plan.nodes)
        return subject.exactness is Exactness.LOSSY and may_idle and idle

    def refuse_unmet(self, plan: Plan, step: Step) -> None:
        """Raise PassError where a pass left a node float to which a plan from a file gives its format.

        It is held to nodes with weights; the form of the others follows from theirs.
        """
        reasons = {refusal.site: refusal.reason for refusal in step.refused}
        for entry in plan.nodes if self.given is not None else ():
            if entry.format == step.spec.name and entry.op in DECIDING and entry.node not in step.sites:
                raise _unmet(entry, reasons.get(entry.node, AROUND))


EACH = Planner()
"""Every pass takes all that it can of what the passes before it left."""


def as_done(plan: Plan, steps: Sequence[Step]) -> Plan:
    """Return a plan as it came about: nodes that their pass left alone are float."""
    done = {step.spec.name: set(step.sites) for step in steps}
    reasons = {refusal.site: refusal.reason for step in steps for refusal in step.refused}

    def entry(node: NodePlan) -> NodePlan:
        if node.format == FLOAT or node.node in done.get(node.format, ()):
            return node
        return replace(node, format=FLOAT, reason=reasons.get(node.node, AROUND))

    return Plan(tuple(map(entry, plan.nodes)))


def plan_for(
    model: ir.Model,
    passes: Sequence[Pass],
    context: Context,
    kept: Collection[str] = (),
    pays: Callable[[str, str], bool] = lambda _name, _site: True,
) -> Plan:
    """Return the format of every node: that of the first pass that takes it, else float with the first's reason.

    ``pays(name, site)`` says whether a pass should take a node that it can take. Sites in ``kept`` stay float. Nodes
    that no pass says anything of are in the plan too.
    """
    found: dict[str, NodePlan] = {}
    for subject in passes:

        def free(site: str, name: str = subject.name) -> bool:
            taken = site in found and found[site].format != FLOAT
            return not taken and site not in kept and pays(name, site)

        for entry in _entries(subject, model, replace(context, allow=free)):
            known = found.get(entry.node)
            if known is None or known.reason == KEPT_BY_PLAN or (known.format == FLOAT and entry.format != FLOAT):
                found[entry.node] = entry
    unnamed = NodePlan("", "", FLOAT, UNASKED)
    return Plan(
        tuple(_final(site, node, found.get(site, unnamed), kept) for site, node in nodes_by_site(model).items())
    )


def _divided(model: ir.Model, passes: Sequence[Pass], context: Context, kept: Collection[str]) -> Plan:
    """Return a plan that gives each pass the nodes for which it pays; products of few columns too, if nothing else."""
    known = {one.name for one in passes} >= ONNXRUNTIME
    heads, narrow = (slow_heads(model), narrow_products(model)) if known else ({}, {})
    chains = convolution_chains(model, heads)

    def plan(without: Mapping[str, str]) -> Plan:
        def pays(name: str, site: str) -> bool:
            return site in chains if name == INT8_STATIC else name != INT8_DYNAMIC or site not in without

        found = plan_for(model, passes, context, kept, pays)
        reasons = {**without, **heads}
        return Plan(tuple(_with_reason(entry, reasons.get(entry.node, "")) for entry in found.nodes))

    found = plan(narrow)
    return plan({}) if narrow and all(entry.format == FLOAT for entry in found.nodes) else found


def _entries(subject: Pass, model: ir.Model, context: Context) -> tuple[NodePlan, ...]:
    """Return what a pass plans. Raises PassError where it fails."""
    with foreign(f"the pass {subject.name}", PassError):
        return subject.plan(model, context)


def _with_reason(entry: NodePlan, reason: str) -> NodePlan:
    """Return an entry with a better reason why it is float, if it is, and nobody asked for that."""
    better = reason and entry.format == FLOAT and entry.reason != ASKED_FLOAT
    return replace(entry, reason=reason) if better else entry


def _final(site: str, node: ir.Node, entry: NodePlan, kept: Collection[str]) -> NodePlan:
    if site in kept:
        return NodePlan(site, node.op_type, FLOAT, ASKED_FLOAT)
    return replace(entry, node=site, op=node.op_type)


def _checked(plan: Plan, model: ir.Model, passes: Sequence[Pass], context: Context, kept: Collection[str]) -> Plan:
    """Return a plan from a file with every node of the graph, those that it does not name float.

    Raises UsageError for nodes that the graph has not, PassError for formats that a node cannot have.
    """
    nodes = nodes_by_site(model)
    given = {entry.node: entry for entry in plan.nodes}
    for name, entry in given.items():
        if name not in nodes:
            raise UsageError(f"the plan names {name!r}, which is no node of the model", nearest(name, nodes))
        if entry.op not in ("", nodes[name].op_type):
            raise UsageError(
                f"the plan calls {name} {entry.op}, in the model it is {nodes[name].op_type}",
                "the plan was written for another model, or other passes",
            )
    for subject in passes:
        said = {entry.node: entry for entry in _entries(subject, model, context)}
        for entry in plan.nodes:
            found = said.get(entry.node)
            able = nodes[entry.node].op_type not in DECIDING or (found is not None and found.format != FLOAT)
            if entry.format == subject.name and said and not able and entry.node not in kept:
                why = f"{subject.name} has no form for it" if found is None else found.reason
                raise _unmet(replace(entry, op=nodes[entry.node].op_type), why)
    unnamed = NodePlan("", "", FLOAT, UNNAMED)
    return Plan(tuple(_final(site, node, given.get(site, unnamed), kept) for site, node in nodes.items()))


def _unmet(entry: NodePlan, reason: str) -> PassError:
    return PassError(
        f"the plan gives {entry.format} to {entry.op} {entry.node}, which stays float: {reason}",
        "write float for it in the plan",
    )
