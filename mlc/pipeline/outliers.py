"""Layers that cost the most at the outputs get a better format, where outputs lose more than a little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlc.artifact import Step
from mlc.errors import TargetError
from mlc.explaining.node_costs import Costs, node_costs
from mlc.explaining.node_times import told_times
from mlc.formats import FOLDING, MATRIX_PRODUCTS, PASSING, constant, site_of, weight_of
from mlc.fusion import opset_of, producer
from mlc.pipeline.layers import probed
from mlc.plan import formats_for, on_openvino, reserve_for
from mlc.plan.kept import nodes_by_site
from mlc.plan.planner import DECIDING
from mlc.registry import pass_class
from mlc.rewriting import Amend, as_planned
from mlc.types import FLOAT, NodePlan, Plan, Target

if TYPE_CHECKING:
    from mlc.compare import Reference
    from mlc.pipeline.data import Datasets
    from mlc.recipe import Recipe
    from mlc.statistics import Batches
    from mlc.types import Capabilities
    from mlc.workspace import Workspace


@dataclass(frozen=True)
class Search:
    """What outliers of a number format get in its place, as far as they are products, and what makes one.

    A node is one where its share of the noise is more than ``times`` its share of the multiply-adds; all together have
    no more than ``work`` of the multiply-adds.
    """

    instead: str
    times: float
    work: float = 1 / 3


SEARCHES = {
    **dict.fromkeys(("int8-static", "int8-dynamic"), Search(FLOAT, 2.0)),
    "int8": Search("int8-weights", 2.0),
    "int4-weights": Search("int8-weights", 1.0),
}
"""The number formats whose outliers are looked for."""

GOAL = 30.0
"""Outputs at so many dB are good enough: nothing is looked for, and no more nodes are given up."""

SAMPLES = 128
"""So many samples of the calibration data tell what a node costs."""

OUTLIER = "an outlier"

UNTRIED = "too much work to be tried alone as an outlier"


@dataclass(frozen=True)
class Outliers:
    """Looks for outliers on samples."""

    search: Search
    batches: Batches
    workspace: Workspace
    target: Target = field(default_factory=Target)

    def amended(self, before: ir.Model, after: ir.Model, plan: Plan, steps: Sequence[Step]) -> Plan:
        """Return the plan with its outliers in a better format, the costliest first; the same where there are none.

        ``before`` is the float graph and ``after`` what the plan made of it. Errors add up as if they had nothing to
        do with each other, so what a node costs alone is what the outputs win without it.
        """
        left = self._makers(before, after, plan)
        if left:
            return Plan(tuple(left.get(entry.node, entry) for entry in plan.nodes))
        reached = min((ratio for step in steps for ratio in step.sqnr.values()), default=GOAL)
        entries = [entry for entry in plan.nodes if entry.format != FLOAT and entry.op in DECIDING]
        sites = [entry.node for entry in entries]
        if reached >= GOAL or len(sites) < 2:  # noqa: PLR2004 - of one node there is no outlier
            return plan
        try:
            found = node_costs(before, after, sites, self.batches, self.workspace, samples=SAMPLES)
        except TargetError:  # the quantized model is right without a better plan
            return plan
        together = self._together(before, entries)
        amended = dict(self._outliers(found, _shares(found.work, sites), together, opset_of(before)))
        times, _ = told_times((before, after), list(amended), self.batches, self.workspace, self.target)
        untried = {site for group in found.groups for site in group.sites}

        def better(entry: NodePlan) -> NodePlan:
            if entry.node in amended:
                taken = f"; {times[entry.node]}" if entry.node in times else ""
                return replace(amended[entry.node], reason=f"{amended[entry.node].reason}{taken}")
            return replace(entry, reason=f"{entry.reason}; {UNTRIED}") if entry.node in untried else entry

        return Plan(tuple(map(better, plan.nodes)))

    def _makers(self, before: ir.Model, after: ir.Model, plan: Plan) -> dict[str, NodePlan]:
        """Return the nodes, to be float too, that make the codes which outliers that are float already still read.

        A product writes codes where a Relu behind it is folded into them, whoever reads these.
        """
        entries, nodes, now = {entry.node: entry for entry in plan.nodes}, nodes_by_site(before), nodes_by_site(after)
        found: dict[str, NodePlan] = {}
        for entry in plan.nodes:
            reader = now.get(entry.node) if entry.format == FLOAT and OUTLIER in entry.reason else None
            if reader is None or producer(reader.inputs[0], "DequantizeLinear") is None:
                continue
            for maker in _above(nodes[entry.node]):
                own = entries.get(site_of(maker), entry)
                if own.format != FLOAT:
                    found[own.node] = replace(
                        own, format=FLOAT, reason=f"it makes the codes for {entry.node}, {OUTLIER}"
                    )
        return found

    def _together(self, model: ir.Model, entries: Sequence[NodePlan]) -> list[list[NodePlan]]:
        """Group nodes by what can have another format alone: readers of one matrix in blocks share its codes."""
        nodes = nodes_by_site(model)
        found: dict[ir.Value | str, list[NodePlan]] = {}
        for entry in entries:
            matrix = None if self.search.instead == FLOAT else _matrix(nodes[entry.node])
            found.setdefault(entry.node if matrix is None else matrix, []).append(entry)
        return list(found.values())

    def _instead(self, entries: Sequence[NodePlan], opset: int) -> str:
        """Return the better format for the readers of a weight: float where that is not for them, or did not help."""
        instead, ops = self.search.instead, {entry.op for entry in entries}
        if any(entry.format == instead for entry in entries):
            return FLOAT
        products = ops & MATRIX_PRODUCTS and ops <= {*MATRIX_PRODUCTS, "Gather"}
        fits = instead != FLOAT and products and opset >= pass_class(instead).min_opset
        return instead if fits else FLOAT

    def _outliers(
        self, found: Costs, work: Mapping[str, float], together: Sequence[Sequence[NodePlan]], opset: int
    ) -> Iterator[tuple[str, NodePlan]]:
        """Yield the sites that are to get the better format as they stand in the plan then, with the reason."""
        whole = left = sum(one.noise for one in (*found.nodes, *found.groups))
        spent = 0.0
        alone = {one.sites[0]: one for one in found.nodes}
        groups = [(entries, [alone[entry.node] for entry in entries if entry.node in alone]) for entries in together]
        tried = [(entries, known, min(known, key=lambda one: one.sqnr)) for entries, known in groups if known]
        for entries, known, worst in sorted(tried, key=lambda one: one[2].sqnr):
            noise = sum(one.noise for one in known)
            share = sum(work[entry.node] for entry in entries)
            outlier = noise > self.search.times * share * whole and spent + share <= self.search.work
            if left > 10 ** (-GOAL / 10) and outlier:
                left, spent = left - noise, spent + share
                loss = f"alone it leaves {worst.output} at {worst.sqnr:.1f} dB, for {share:.1%} of the multiply-adds"
                instead = self._instead(entries, opset)
                for entry in entries:
                    mate = "" if (entry.node,) == worst.sites else f"it reads the weight of {worst.sites[0]}, "
                    yield entry.node, replace(entry, format=instead, reason=f"{mate}{OUTLIER}: {loss}")


def _above(node: ir.Node) -> Iterator[ir.Node]:
    """Yield what makes the activation that a node reads, up to the product that it is of."""
    while (value := node.inputs[0]) is not None and (maker := value.producer()) is not None:
        yield maker
        if maker.op_type not in PASSING | FOLDING:
            return
        node = maker


def _matrix(node: ir.Node) -> ir.Value | None:
    """Return the matrix that a product or a lookup reads, if it is stored."""
    if node.op_type == "Gather":
        return node.inputs[0] if constant(node.inputs[0]) is not None else None
    weight = weight_of(node) if node.op_type in MATRIX_PRODUCTS else None
    return None if weight is None else weight.value


def _shares(counts: Mapping[str, int], sites: Sequence[str]) -> dict[str, float]:
    """Return the share of these nodes' multiply-adds that each takes; those that are not known count as even."""
    known = {site: count for site in sites if (count := counts.get(site))}
    even = sum(known.values()) / len(known) if known else 1.0
    work = {site: known.get(site, even) for site in sites}
    return {site: count / sum(work.values()) for site, count in work.items()}


def amend_for(
    recipe: Recipe, sets: Datasets, kept: Sequence[Reference], able: Capabilities, workspace: Workspace
) -> Amend:
    """Return what looks for outliers, where a format was asked for whose nodes nobody named one by one.

    A pass in reserve is taken where the target has the kernels that it may use, and on OpenVINO, which needs none.
    """
    search = SEARCHES.get(recipe.to or "")
    if search is None:
        return as_planned
    if search.instead in reserve_for(recipe.to or "", recipe.target):
        kernels = pass_class(search.instead).may_use_kernels.keys()
        useful = on_openvino(recipe.target) or kernels <= set(able.kernels)
    else:
        useful = search.instead in formats_for(recipe.to or "", recipe.target)[1:]
    search = search if useful else replace(search, instead=FLOAT)
    batches = probed(kept) if sets.calibration is None else sets.calibration
    return Outliers(search, batches, workspace, recipe.target).amended
