"""Recurrent layers whose kernels on the CPU end the whole process where there is no row, and the inputs they get."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

ENDS_PROCESS = frozenset({"GRU", "LSTM", "DynamicQuantizeLSTM"})
"""Operators whose kernels throw where nobody catches it."""


def rows_of_recurrent_layers(path: Path) -> dict[str, str]:
    """Return the inputs of a model that the rows of such layers follow from, each with the operator.

    For a layer in a branch or a loop these are all inputs.
    """
    graph = onnx.load(path, load_external_data=False).graph
    made_by = {name: node for node in graph.node for name in node.output if name}
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in ENDS_PROCESS:
            seen = _above(node.input[0], made_by)
            found |= {value.name: node.op_type for value in graph.input if value.name in seen}
        elif inside := ENDS_PROCESS & {each.op_type for each in _nodes(node)}:
            found |= {value.name: min(inside) for value in graph.input}
    return found


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
