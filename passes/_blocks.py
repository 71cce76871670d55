"""Which weights of a graph become codes by blocks: constant matrices of products, and tables of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from mlc.formats import (
    BlockScheme,
    constant,
    constant_obstacle,
    integers,
    number,
    quantized_before,
    site_of,
    weight_obstacle,
    weight_of,
)
from mlc.fusion import is_standard, walk
from mlc.graph_pass import Context, Refusal
from mlc.types import FLOAT, NodePlan
from passes._stored import StoredWeight

PRODUCTS = frozenset({"MatMul", "Gemm"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

JOINED_BITS = 8
"""Weights of so many bits have products with codes that runtimes make of them."""

INSIDE = "branches and bodies of loops stay float"


def block_weights(
    model: ir.Model, scheme: BlockScheme, permitted: Callable[[str], bool] = lambda _: True, *, short: bool = False
) -> tuple[list[StoredWeight], list[Refusal]]:
    """Return the weights to quantize, in the order of their first readers, and the sites that stay float, with reasons.

    A weight that anything else reads stays float as a whole: its codes would come on top of it. The last block of a
    product's weight may be ``short`` or not.
    """
    found: dict[ir.Value, StoredWeight] = {}
    refused: dict[str, str] = {}
    for node in model.graph:
        weight = _weight_read(node)
        reason = _obstacle(node, weight, scheme, short=short)
        if weight is not None and not reason:
            known = found.setdefault(weight.value, weight)
            if known.transposed != weight.transposed:
                reason = f"its weight {weight.value.name} is read along the other axis too"
            elif permitted(site_of(node)):
                (known.products if node.op_type in PRODUCTS else known.tables).append(node)
        if reason:
            refused[site_of(node)] = reason
    whole = []
    for weight in found.values():
        other = _other_reader(weight)
        if not other:
            whole.append(weight)
        refused.update((site_of(node), other) for node in weight.nodes if other)
    inside = (f"{prefix}{site_of(node)}" for prefix, graph in walk(model) if prefix for node in graph
              if node.op_type in PRODUCTS | CONVOLUTIONS)  # fmt: skip
    return whole, [Refusal(*pair) for pair in (refused | dict.fromkeys(inside, INSIDE)).items()]


def planned(model: ir.Model, ctx: Context, name: str, scheme: BlockScheme, *, short: bool) -> tuple[NodePlan, ...]:
    """Return what becomes of each node that was looked at, without quantizing any."""
    weights, refused = block_weights(model, scheme, ctx.allow, short=short)

    def entry(weight: StoredWeight, node: ir.Node) -> NodePlan:
        block = scheme.fitted(len(weight.matrix())).block
        return NodePlan(site_of(node), node.op_type, name, f"constant weight, in blocks of {block}")

    taken = (entry(weight, node) for weight in weights for node in weight.nodes)
    return (*taken, *(NodePlan(refusal.site, "", FLOAT, refusal.reason) for refusal in refused))


def _weight_read(node: ir.Node) -> StoredWeight | None:
    """Return the constant that a product multiplies with or a Gather takes rows of, without its readers."""
    if node.op_type == "Gather" and is_standard(node):
        table, tensor = node.inputs[0], constant(node.inputs[0])
        is_table = tensor is not None and tensor.dtype.is_floating_point() and len(tensor.shape) > 1
        return StoredWeight(table, transposed=True) if is_table and table is not None else None
    weight = weight_of(node) if node.op_type in PRODUCTS else None
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
    if not is_standard(node) or (node.op_type not in PRODUCTS and weight is None):
        return ""
    problem = weight_obstacle(node) if node.op_type in PRODUCTS else _table_obstacle(node)
    if not problem and scheme.bits == JOINED_BITS and not short and node.op_type in PRODUCTS:
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


def _other_reader(weight: StoredWeight) -> str:
    """Return what keeps a weight float beside its readers, or nothing."""
    name = weight.value.name
    if weight.value.is_graph_output():
        return f"its weight {name} is an output of the model"
    for node, index in _readers(weight.value):
        reads = (node in weight.products and index == 1) or (node in weight.tables and index == 0)
        if not reads:
            return f"its weight {name} is read by {node.op_type} {site_of(node)} too, which stays float"
    return ""


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Yield who reads a matrix, looking through the Transposes of it."""
    for node, index in value.uses():
        turned = node.outputs[0]
        if node.op_type == "Transpose" and integers(node, "perm") in ([], [1, 0]) and not turned.is_graph_output():
            yield from turned.uses()
        else:
            yield node, index
