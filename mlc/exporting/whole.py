"""Operands as whole as their operators ask: torch.onnx leaves axes of one where kernels take none to broadcast.

Attention of onnxruntime's CPU provider refuses a mask with one row for all queries or one column for all keys, and
RotaryEmbedding (ONNX, Operators, opset 23) takes cosines and sines for every sample of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from mlc.fusion import Size, dims_of, is_standard, producer

MASK, CACHES = 3, (1, 2)
"""Which inputs they are, of Attention and of RotaryEmbedding."""

PARTS = 3
"""How many inputs RotaryEmbedding has where its caches are not looked up by position."""


def make_whole(model: ir.Model) -> None:
    """Expand masks of Attention and caches of RotaryEmbedding, [batch, length, width / 2], where an axis may be 1."""
    for graph in model.graphs():
        made: dict[tuple[Size | None, ...], ir.Value] = {}
        for node in list(graph):
            if is_standard(node) and node.op_type == "Attention" and len(node.inputs) == MASK + 1:
                query, key, mask = node.inputs[0], node.inputs[1], node.inputs[MASK]
                _expand(node, MASK, mask, [(query, -2), (key, -2)], made)
            elif is_standard(node) and node.op_type == "RotaryEmbedding" and len(node.inputs) == PARTS:
                for index in CACHES:
                    cache = node.inputs[index]
                    _expand(node, index, cache, [(node.inputs[0], 0), (cache, 1), (cache, 2)], made)


def _expand(
    node: ir.Node,
    index: int,
    operand: ir.Value | None,
    sizes: Sequence[tuple[ir.Value | None, int]],
    made: dict[tuple[Size | None, ...], ir.Value],
) -> None:
    """Give an operand the sizes of axes of other values as its last ones, once for all nodes that read it so."""
    if operand is None or all(_size(operand, axis - len(sizes)) == _size(*other) for axis, other in enumerate(sizes)):
        return
    graph = node.graph
    assert graph is not None
    key = (operand.name, *(_size(*size) for size in sizes))
    if key not in made:
        places = [_before_transpose(value, axis) for value, axis in sizes]
        parts = [ir.node("Shape", [value], {"start": axis, "end": axis + 1}) for value, axis in places]
        shape = ir.node("Concat", [part.outputs[0] for part in parts], {"axis": 0})
        expand = ir.node("Expand", [operand, shape.outputs[0]])
        graph.insert_before(node, [*parts, shape, expand])
        made[key] = expand.outputs[0]
        made[key].type = operand.type
    node.replace_input_with(index, made[key])


def _before_transpose(value: ir.Value | None, axis: int) -> tuple[ir.Value | None, int]:
    """Return where the size of an axis is read, so that it does not keep a Transpose which a fusion makes needless."""
    node = producer(value, "Transpose")
    permutation = node.attributes.get("perm") if node is not None else None
    if node is None or permutation is None:
        return value, axis
    return node.inputs[0], permutation.as_ints()[axis]


def _size(value: ir.Value | None, axis: int) -> Size:
    """Return what tells the size of an axis from others: its name where it has one, so that layers share an Expand."""
    assert value is not None
    dims = dims_of(value)
    return f"{value.name}.{axis}" if dims is None else dims[axis]
