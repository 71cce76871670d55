"""Everything that can be told of where a quantized model loses."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.emulate import computes_half, rounded_half
from mlc.emulate.saturation import first_of
from mlc.errors import MlcError
from mlc.explaining.activations import activation_errors
from mlc.explaining.arithmetic import arithmetic_of
from mlc.explaining.halves import half_errors, halved_nodes, kept_nodes
from mlc.explaining.inside import converted_inside
from mlc.explaining.node_costs import Costs, first_batches, node_costs
from mlc.explaining.node_times import told_times
from mlc.explaining.nouns import Explanation, IntegerShare, NodeCost, TensorError
from mlc.explaining.weights import weight_errors
from mlc.figures import counted
from mlc.formats.nodes import site_of
from mlc.formats.operators import WEIGHTED
from mlc.fusion import infer_shapes, opset_of
from mlc.rewriting.chosen import folded_nodes, quantized_nodes
from mlc.rewriting.opset import raised
from mlc.rewriting.sessions import Runner
from mlc.types import FLOAT, Target

if TYPE_CHECKING:
    from mlc.data import Batch
    from mlc.statistics import Batches
    from mlc.types import Plan
    from mlc.workspace import Workspace

CPU = Target()

SAMPLES = 32
"""So many samples suffice, and the batch that they end in."""


UNTRIED = "what each of {nodes} costs alone is told by `mlc quantize --explain` and `mlc validate --per-layer`"


def explain(
    before: ir.Model,
    path: Path,
    batches: Batches,
    workspace: Workspace,
    plan: Plan | None = None,
    *,
    deep: bool = True,
    target: Target = CPU,
) -> Explanation | None:
    """Return where the quantized model at ``path`` loses against the float graph ``before``, over the first samples.

    None where nothing in it is quantized. ``plan`` says what each node was to be; of those to be converted, the ones of
    which nothing is told are counted in a note. Nodes and weights are told by the names that both have; what each node
    costs alone is told where both are of one opset, in float16 as a GPU computes it, of which there are so many that it
    is done where ``deep`` asks for it. What nodes take is timed on the ``target``. The multiply-adds are those of
    onnxruntime's CPU provider.
    """
    before, after = before.clone(), ir.load(path)
    for model in (before, after):
        workspace.hold(model)
        infer_shapes(model)
    few, halves = list(first_batches(batches, SAMPLES)), halved_nodes(before, after)
    coded = quantized_nodes(before, after)
    codes = (*activation_errors(before, after, few, workspace), *weight_errors(before, after))
    tensors = (*codes, *half_errors(before, after, halves, few, workspace))
    formats = {} if plan is None else {entry.node: entry.format for entry in plan.nodes}
    inside = converted_inside(before, after, halves, formats)
    if not (coded or tensors or halves or inside):
        return None
    in_half = computes_half(after) and not computes_half(before)
    ops = {site: node.op_type for node in before.graph if (site := site_of(node)) in halves or site in coded}
    ops |= {each.node: each.op for each in inside}
    sites = list(ops)
    computing = rounded_half(after) if in_half else after
    tried = deep or not in_half
    found, unknown = _costs(before, computing, sites if tried else (), batches, workspace)
    converted = {site for site in sites if formats.get(site) != FLOAT}
    told_nodes = list(_told(found, ops, {each.node for each in inside}))
    costliest = [node.node for node in sorted(told_nodes, key=lambda node: node.sqnr)]
    times, untimed = told_times((before, after), costliest, batches, workspace, target)
    nodes = tuple(
        replace(node, keep=_keep(before, tensors, node.node, converted), time=times.get(node.node))
        for node in told_nodes
    )
    untried = () if tried else (UNTRIED.format(nodes=counted(len(sites), "node")),)
    arithmetic, more = _arithmetic(path, few, workspace) if coded or codes else (None, ())
    costs = {node.node: node.sqnr for node in nodes}
    told = {
        *sites,
        *folded_nodes(before, after),
        *(name for tensor in tensors for name in (tensor.value, *tensor.readers)),
        *(each.node for each in inside),
    }
    return Explanation(
        samples=sum(batch.count for batch in few),
        tensors=tuple(_with_output(tensor, costs) for tensor in tensors),
        nodes=nodes,
        grouped=sum(group.noise for group in found.groups),
        arithmetic=arithmetic,
        notes=(*unknown, *untimed, *untried, *more, *_untold(formats, told)),
        inside=inside,
        kept=kept_nodes(before, {*halves, *coded}, plan) if in_half else (),
    )


def _untold(formats: Mapping[str, str], told: Collection[str]) -> tuple[str, ...]:
    left = [site for site, form in formats.items() if form != FLOAT and site not in told]
    return (f"{counted(len(left), 'converted node')} cannot be explained: {first_of(left)}",) if left else ()


def _costs(
    before: ir.Model, after: ir.Model, sites: Sequence[str], batches: Batches, workspace: Workspace
) -> tuple[Costs, tuple[str, ...]]:
    """Return what each node costs, and what of that is not known."""
    first = next(iter(batches), None)
    if opset_of(before) < opset_of(after) and first is not None:
        before, _ = raised(before, opset_of(after), Runner(workspace), [first.inputs])
    if opset_of(before) != opset_of(after):
        versions = f"opset {opset_of(before)} and the model opset {opset_of(after)}"
        return Costs(), (f"what each node costs alone is not known: the float graph has {versions}",)
    try:
        found = node_costs(before, after, sites, batches, workspace, samples=SAMPLES)
    except MlcError as error:
        return Costs(), (f"what each node costs alone is not known: {error.message}",)
    return found, tuple(found.said())


def _told(found: Costs, ops: Mapping[str, str], inside: Collection[str]) -> Iterator[NodeCost]:
    """Yield what each node costs; one inside a branch that changed nothing was in one that no sample took."""
    for one in found.nodes:
        (site,) = one.sites
        if site not in inside or one.sqnr < math.inf:
            yield NodeCost(site, ops[site], one.sqnr, one.output)


def _keep(before: ir.Model, tensors: Sequence[TensorError], site: str, converted: Collection[str]) -> tuple[str, ...]:
    """Return what has to stay float for what a node loses to go.

    A node without weights writes codes whether or not anything after it takes them, and so stays with what reads it; of
    what is float already, all that makes the codes it reads.
    """
    read = {tensor.value for tensor in tensors if tensor.kind == "activation" and site in tensor.readers}
    makers = [
        node
        for node in before.graph
        if site_of(node) in converted and any(value.name in read for value in node.outputs)
    ]
    if site not in converted:
        return tuple(map(site_of, makers))
    return (*(site_of(node) for node in makers if node.op_type not in WEIGHTED), site)


def _arithmetic(path: Path, batches: list[Batch], workspace: Workspace) -> tuple[IntegerShare | None, tuple[str, ...]]:
    """Return what runs on integers, or why that is not known."""
    if not batches:
        return None, ()
    shapes = {name: tuple(np.shape(array)) for name, array in batches[0].inputs.items()}
    try:
        return arithmetic_of(path, shapes, workspace), ()
    except MlcError as error:
        return None, (f"what runs on integers is not known: {error.message}",)


def _with_output(tensor: TensorError, costs: Mapping[str, float]) -> TensorError:
    """Note what the worst of a tensor's readers costs."""
    return replace(tensor, output=min((costs[name] for name in tensor.readers if name in costs), default=None))
