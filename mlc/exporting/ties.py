"""Weights that a module ties together are stored once: the exporter's transposed copies are taken out again."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

SMALL = 4096
"""Matrices below this many bytes are alike by chance, such as small constants, unless a weight is among them."""

MATRIX = 2


def share_transposed(model: ir.Model, weights: Collection[str]) -> int:
    """Put a Transpose of the other in the place of each matrix that is another one transposed; returns how many.

    A runtime folds the Transpose into the product or the weight; the file holds the weight of an embedding and of its
    tied head once. Of two, the one that is among the module's ``weights`` by name stays, else the one that is looked
    up: a Transpose before a Gather would be computed.
    """
    graph = model.graph
    groups: dict[tuple[tuple[int, ...], ir.DataType], list[ir.Value]] = {}
    shared = 0
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or len(tensor.shape) != MATRIX or not tensor.size or _contract(value):
            continue
        shape = tensor.numpy().shape
        twins = (
            other
            for other in groups.get((shape[::-1], tensor.dtype), [])
            if _worth_it(value, other, weights) and _transposed(value, other)
        )
        twin = next(twins, None)
        if twin is None:
            groups.setdefault((shape, tensor.dtype), []).append(value)
            continue
        first, second = (value, twin) if _rank(value, weights) > _rank(twin, weights) else (twin, value)
        if first is value:
            groups[shape[::-1], tensor.dtype].remove(twin)
            groups.setdefault((shape, tensor.dtype), []).append(value)
        _replace(graph, second, first)
        shared += 1
    return shared


def _contract(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_graph_output()


def _rank(value: ir.Value, weights: Collection[str]) -> tuple[bool, bool]:
    """Return how good a reason there is to keep a matrix as it is."""
    return value.name in weights, any(node.op_type == "Gather" for node in value.consumers())


def _worth_it(value: ir.Value, other: ir.Value, weights: Collection[str]) -> bool:
    """Whether two small matrices are tied rather than alike by chance: a weight that has more than one value is."""
    assert value.const_value is not None
    if value.const_value.nbytes >= SMALL:
        return True
    array = value.const_value.numpy()
    return (value.name in weights or other.name in weights) and bool((array != array.flat[0]).any())


def _transposed(value: ir.Value, other: ir.Value) -> bool:
    assert value.const_value is not None
    assert other.const_value is not None
    first, second = value.const_value.numpy(), other.const_value.numpy()
    return bool(np.array_equal(first[0], second[:, 0]) and np.array_equal(first, second.T))


def _replace(graph: ir.Graph, value: ir.Value, kept: ir.Value) -> None:
    node = ir.node("Transpose", [kept], {"perm": [1, 0]}, name=f"{value.name}_transposed")
    made = node.outputs[0]
    made.name, made.type, made.shape = f"{value.name}_transposed", value.type, value.shape
    graph.insert_before(graph[0], node)
    ir.convenience.replace_all_uses_with(value, made)
    graph.initializers.pop(value.name or "")
