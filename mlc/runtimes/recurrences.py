"""Recurrent layers whose kernels on the CPU end the whole process where there is no row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from mlc.types import Arrays

ENDS_PROCESS = frozenset({"GRU", "LSTM", "DynamicQuantizeLSTM"})
"""Operators whose kernels throw where nobody catches it."""


def without_rows(path: Path, inputs: Arrays) -> tuple[str, str] | None:
    """Return the operator that would end the process with these inputs, and the empty one that its rows follow from.

    A GRU does so without steps too. For a layer in a branch or a loop it may be any input. None where all have rows.
    """
    import onnx  # what times a session loads this module, and not that

    graph = onnx.load(path, load_external_data=False).graph
    empty = [name for name, array in inputs.items() if np.size(array) == 0]
    made_by = {name: node for node in graph.node for name in node.output if name}
    dims = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    sizes = {
        dim.dim_param: size
        for name, array in inputs.items()
        for dim, size in zip(dims.get(name, ()), np.shape(array), strict=False)
    }
    for node in graph.node:
        inside = ENDS_PROCESS & {each.op_type for each in _nodes(node)}
        if node.op_type in ENDS_PROCESS:
            batch = dims[node.input[0]][1] if len(dims.get(node.input[0], ())) > 1 else None
            rows = 0 if batch is None else batch.dim_value or sizes.get(batch.dim_param, 0)
            seen = _above(node.input[0], made_by) if node.op_type == "GRU" or not rows else set()
        else:
            seen = set(inputs) if inside else set()
        found = next((name for name in empty if name in seen), None)
        if found is not None:
            return min(inside), found
    return None


def _above(value: str, made_by: Mapping[str, onnx.NodeProto]) -> set[str]:
    """Return a value and all that it is computed from."""
    seen, sought = set(), [value]
    while sought:
        name = sought.pop()
        if name not in seen:
            seen.add(name)
            sought += made_by[name].input if name in made_by else []
    return seen


def _nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return a node and all in its subgraphs."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [node, *(inner for graph in graphs for each in graph.node for inner in _nodes(each))]
