"""Which weights of a graph become codes by blocks: constant matrices of products, and tables of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from mlc.formats import (
    MATRIX_PRODUCTS,
    BlockScheme,
    constant,
    constant_obstacle,
    number,
    quantized_before,
    weight_obstacle,
    weight_of,
)
from mlc.fusion import Places, is_standard
from mlc.graph_pass import Context, Refusal
from mlc.types import FLOAT, NodePlan
from passes._stored import StoredWeight, matrix_readers

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

JOINED_BITS = 8
"""Weights of so many bits have products with codes that runtimes make of them."""


@dataclass(frozen=True)
class BlockWeights:
    """The weights of a model to quantize, in the order of their first readers, and why other sites stay float."""

    places: Places
    weights: Sequence[StoredWeight]
    refused: Sequence[Refusal]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of all readers, in the order of the graphs."""
        readers = {node for weight in self.weights for node in weight.nodes}
        return tuple(self.places.site(node) for node in self.places.nodes() if node in readers)


def block_weights(
    model: ir.Model, scheme: BlockScheme, permitted: Callable[[str], bool] = lambda _: True, *, short: bool = False
) -> BlockWeights:
    """Return what is to become codes, in branches and bodies of loops too.

    A weight that anything else reads stays float as a whole: its codes would come on top of it. The last block of a
    product's weight may be ``short`` or not.
    """
    places = Places(model)
    found: dict[ir.Value, StoredWeight] = {}
    refused: dict[str, str] = {}
    for node in places.nodes():
        weight, site = _weight_read(node), places.site(node)
        reason = _obstacle(node, weight, scheme, short=short)
        if weight is not None and not reason:
            known = found.setdefault(weight.value, weight)
            if known.transposed != weight.transposed:
                reason = f"its weight {weight.value.name} is read along the other axis too"
            elif permitted(site):
                (known.products if node.op_type in MATRIX_PRODUCTS else known.tables).append(node)
        if reason:
            refused[site] = reason
    whole = []
    for weight in found.values():
        other = _other_reader(weight, places)
        if not other:
            whole.append(weight)
        refused.update((places.site(node), other) for node in weight.nodes if other)
    return BlockWeights(places, whole, [Refusal(*pair) for pair in refused.items()])


def planned(model: ir.Model, ctx: Context, name: str, scheme: BlockScheme, *, short: bool) -> tuple[NodePlan, ...]:
    """Return what becomes of each node that was looked at, without quantizing any."""
    found = block_weights(model, scheme, ctx.allow, short=short)

    def entry(weight: StoredWeight, node: ir.Node) -> NodePlan:
        block = scheme.fitted(len(weight.matrix())).block
        return NodePlan(found.places.site(node), node.op_type, name, f"constant weight, in blocks of {block}")

    taken = (entry(weight, node) for weight in found.weights for node in weight.nodes)
    return (*taken, *(NodePlan(refusal.site, "", FLOAT, refusal.reason) for refusal in found.refused))


def _weight_read(node: ir.Node) -> StoredWeight | None:
    """Return the constant that a product multiplies with or a Gather takes rows of, without its readers."""
    if node.op_type == "Gather" and is_standard(node):
        table, tensor = node.inputs[0], constant(node.inputs[0])
        is_table = tensor is not None and tensor.dtype.is_floating_point() and len(tensor.shape) > 1
        return StoredWeight(table, transposed=True) if is_table and table is not None else None
    weight = weight_of(node) if node.op_type in MATRIX_PRODUCTS else None
    if weight is None:
        return None
    return StoredWeight(weight.value, weight.transposed or bool(number(node, "transB", 0)))


def _obstacle(node: ir.Node, weight: StoredWeight | None, scheme: BlockScheme, *, short: bool) -> str:
    """Return why a node that has a weight stays float, or nothing.

    Of a product between codes and blocks of 8 bits, written apart, onnxruntime makes one that takes the blocks for
    columns.
    """
    if node.op_type in CONVOLUTIONS:
        return "its weight is not a matrix"
    if not is_standard(node) or (node.op_type not in MATRIX_PRODUCTS and weight is None):
        return ""
    problem = weight_obstacle(node) if node.op_type in MATRIX_PRODUCTS else _table_obstacle(node)
    if not problem and scheme.bits == JOINED_BITS and not short and node.op_type in MATRIX_PRODUCTS:
        problem = quantized_before(node)
    if problem or weight is None:
        return problem
    return _size_obstacle(node, len(weight.matrix()), scheme, short=short)


def _size_obstacle(node: ir.Node, rows: int, scheme: BlockScheme, *, short: bool) -> str:
    block = scheme.fitted(rows).block
    if node.op_type == "Gather" and rows % block:
        return f"its rows of {rows} elements are not whole blocks of {block}"
    if rows < block:
        return f"its {rows} rows are less than a block of {block}"
    return "" if short or rows % block == 0 else f"its {rows} rows are not whole blocks of {block}"


def _table_obstacle(node: ir.Node) -> str:
    table, indices = node.inputs
    problem = constant_obstacle(table, "table")
    tensor = constant(table)
    if problem or tensor is None:
        return problem
    if len(tensor.shape) != 2 or number(node, "axis", 0) != 0:
        return "it does not take rows of a matrix"
    return "the rank of its indices is not known" if indices is None or indices.shape is None else ""


def _other_reader(weight: StoredWeight, places: Places) -> str:
    """Return what keeps a weight float beside its readers, or nothing."""
    name = weight.value.name
    if weight.value.is_graph_output():
        return f"its weight {name} is an output too"
    for node, index in matrix_readers(weight.value):
        reads = (node in weight.products and index == 1) or (node in weight.tables and index == 0)
        if not reads:
            return f"its weight {name} is read by {node.op_type} {places.site(node)} too, which stays float"
    return ""
