"""What each product is computed in, as far as the file says: the dtypes behind its dequantizers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import onnx

from mlc.formats import INTEGER_OPERATORS, QUANTIZERS
from mlc.inspecting.shapes import Values, whole

Producers: TypeAlias = Mapping[str, onnx.NodeProto]

MOVES = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Expand", "Flatten", "Slice", "Split"})
"""Operators that hand values on as they are."""


SCALES = {"QAttention": (3, 4, 6, 7), "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7)}
"""Where operators on integers read scales and zero points."""


def producers(graph: onnx.GraphProto) -> Producers:
    """Return the node that gives each value."""
    return {name: node for node in graph.node for name in node.output if name}


def precision_of(node: onnx.NodeProto, values: Values, made_by: Producers) -> str:
    """Return what a product is computed in: ``int8``, ``int4 weights, float32``, or the dtype of its inputs."""
    if node.op_type in INTEGER_OPERATORS:
        return "int8"
    plain = values.dtype(node.input[0]) if node.input else "?"
    if node.op_type == "MatMulNBits":
        return f"int{whole(node, 'bits', 4)} weights, {plain}"
    stored = [_stored(name, values, made_by) for name in node.input[:2]]
    first, second = stored if len(stored) > 1 else (*stored, None)
    if first and second:
        widths = _family(first), _family(second)
        return widths[0] if widths[0] == widths[1] else f"{widths[1]} weights, {widths[0]}"
    return f"{_family(second)} weights, {plain}" if second else plain


def _stored(name: str, values: Values, made_by: Producers) -> str | None:
    """Return the dtype that a value was dequantized from, or None where it was not."""
    node = made_by.get(name)
    while node is not None and node.op_type in MOVES:
        node = made_by.get(node.input[0])
    return values.dtype(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None


def _family(dtype: str) -> str:
    """Return a dtype without its sign and its variant: ``int8`` for uint8, ``float8`` for float8e4m3fn."""
    return re.sub(r"^u?(int|float)(\d+).*", r"\1\2", dtype)


def helpers(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the names of scales and zero points: they are no parameters of the model."""
    names: set[str] = set()
    for node in nodes:
        if node.op_type in QUANTIZERS:
            names.update(node.input[1:])
        elif node.op_type == "MatMulNBits":
            names.update(node.input[2:4])
        elif node.op_type in SCALES:
            names.update(node.input[index] for index in SCALES[node.op_type] if index < len(node.input))
    return names


def packed(nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
    """Return the real number of elements of weights that hold several in a byte, by name."""
    return {
        node.input[1]: whole(node, "K") * whole(node, "N")
        for node in nodes
        if node.op_type == "MatMulNBits" and len(node.input) > 1
    }
