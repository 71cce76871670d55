"""Weights that a module ties together are stored once: the exporter's transposed copies are taken out again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

SMALL = 4096
"""Matrices below this many bytes may be stored twice."""

MATRIX = 2


def share_transposed(model: ir.Model) -> int:
    """Put a Transpose of the other in the place of each large matrix that is another one transposed; returns how many.

    A runtime folds the Transpose into the product or the weight; the file holds the weight of an embedding and of its
    tied head once.
    """
    graph = model.graph
    groups: dict[tuple[tuple[int, ...], ir.DataType], list[ir.Value]] = {}
    shared = 0
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or len(tensor.shape) != MATRIX or tensor.nbytes < SMALL or _contract(value):
            continue
        shape = tensor.numpy().shape
        twin = next((other for other in groups.get((shape[::-1], tensor.dtype), []) if _transposed(value, other)), None)
        if twin is None:
            groups.setdefault((shape, tensor.dtype), []).append(value)
            continue
        first, second = (value, twin) if _made_up(twin) and not _made_up(value) else (twin, value)
        if first is value:
            groups[shape[::-1], tensor.dtype].remove(twin)
            groups.setdefault((shape, tensor.dtype), []).append(value)
        _replace(graph, second, first)
        shared += 1
    return shared


def _contract(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_graph_output()


def _made_up(value: ir.Value) -> bool:
    """Whether the exporter gave the name: a folded constant rather than a weight of the module."""
    return (value.name or "").startswith("val_")


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
