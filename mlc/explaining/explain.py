"""Everything that can be told of where a quantized model loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.emulate.saturation import first_of
from mlc.errors import MlcError
from mlc.explaining.activations import activation_errors
from mlc.explaining.arithmetic import arithmetic_of
from mlc.explaining.nouns import Explanation, IntegerShare, NodeCost, TensorError
from mlc.explaining.weights import weight_errors
from mlc.figures import counted
from mlc.formats.nodes import site_of
from mlc.fusion import infer_shapes, opset_of
from mlc.rewriting.chosen import quantized_nodes
from mlc.rewriting.opset import raised
from mlc.rewriting.sensitivity import output_sensitivity
from mlc.rewriting.sessions import Runner

if TYPE_CHECKING:
    from mlc.data import Batch
    from mlc.statistics import Batches
    from mlc.workspace import Workspace

SAMPLES = 32
"""So many samples suffice, and the batch that they end in."""


def explain(
    before: ir.Model, path: Path, batches: Batches, workspace: Workspace, planned: Sequence[str] = ()
) -> Explanation | None:
    """Return where the quantized model at ``path`` loses against the float graph ``before``, over the first samples.

    None where nothing of it can be told: codes inside branches and bodies of loops cannot, other number formats have
    none. Of the nodes ``planned`` to be converted, those of which nothing is told are counted in a note. Nodes and
    weights are told by the names that both have; what each node costs alone is told where both are of one opset. The
    multiply-adds are those of onnxruntime's CPU provider.
    """
    after = ir.load(path)
    for model in (before, after):
        workspace.hold(model)
    infer_shapes(after)
    few = list(_first(batches))
    sites = quantized_nodes(before, after)
    tensors = (*activation_errors(before, after, few, workspace), *weight_errors(before, after))
    if not sites and not tensors:
        return None
    nodes, unknown = _costs(before, after, sites, few, workspace)
    arithmetic, more = _arithmetic(path, few, workspace)
    costs = {node.node: node.sqnr for node in nodes}
    samples = sum(batch.count for batch in few)
    told = tuple(_with_output(tensor, costs) for tensor in tensors)
    return Explanation(samples, told, nodes, arithmetic, (*unknown, *more, *_untold(planned, sites, tensors)))


def _untold(planned: Sequence[str], sites: Sequence[str], tensors: Sequence[TensorError]) -> tuple[str, ...]:
    told = {*sites, *(reader for tensor in tensors for reader in tensor.readers)}
    left = [site for site in planned if site not in told]
    return (f"{counted(len(left), 'converted node')} cannot be explained: {first_of(left)}",) if left else ()


def _first(batches: Batches) -> Iterator[Batch]:
    count = 0
    for batch in batches:
        yield batch
        count += batch.count
        if count >= SAMPLES:
            return


def _costs(
    before: ir.Model, after: ir.Model, sites: tuple[str, ...], batches: list[Batch], workspace: Workspace
) -> tuple[tuple[NodeCost, ...], tuple[str, ...]]:
    """Return what each node costs, or why that is not known."""
    if opset_of(before) < opset_of(after) and batches:
        before, _ = raised(before, opset_of(after), Runner(workspace), [batches[0].inputs])
    if opset_of(before) != opset_of(after):
        versions = f"opset {opset_of(before)} and the model opset {opset_of(after)}"
        return (), (f"what each node costs alone is not known: the float graph has {versions}",)
    ops = {site_of(node): node.op_type for node in before.graph}
    try:
        found = output_sensitivity(before, after, [(site,) for site in sites], batches, workspace)
    except MlcError as error:
        return (), (f"what each node costs alone is not known: {error.message}",)
    return tuple(NodeCost(one.sites[0], ops[one.sites[0]], one.sqnr, one.output) for one in found), ()


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
