"""Which inputs and outputs of an operator change from float32 to float16 together, as ONNX declares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from mlc.fusion import is_standard

HALF = "tensor(float16)"

CONTRIBUTED = frozenset(
    {
        "BiasGelu", "FastGelu", "FusedConv", "FusedMatMul", "Gelu", "GroupNorm", "GroupQueryAttention",
        "MultiHeadAttention", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization",
        "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
    }
)  # fmt: skip
"""Operators of com.microsoft whose floats all have one type, which may be float16."""

ONE_TYPE = frozenset({"Attention", "RMSNormalization"})
"""Operators whose kernels want all floats in one type, though ONNX declares several."""


@dataclass(frozen=True)
class Positions:
    """The places of the inputs and outputs that change their type; none where the operator has no such type."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is a float32 tensor."""
    return value is not None and value.dtype == ir.DataType.FLOAT and isinstance(value.type, ir.TensorType)


def positions(node: ir.Node, opset: int) -> Positions:
    """Return what changes if a node is computed in float16.

    It is what has the type of the node's float32 results, or of its first float32 input where it has none. Everything
    else that is float32 stays, such as the scales of a Resize.
    """
    inputs = [index for index, value in enumerate(node.inputs) if is_float(value)]
    outputs = [index for index, value in enumerate(node.outputs) if is_float(value)]
    if node.domain == "com.microsoft" and node.op_type in CONTRIBUTED:
        return Positions(frozenset(inputs), frozenset(outputs))
    schema = _schema(node, opset)
    if schema is None:
        return Positions()
    able = {each.type_param_str for each in schema.type_constraints if HALF in each.allowed_type_strs}
    read = {index: _type(schema.inputs, index) for index in inputs}
    given = {index: _type(schema.outputs, index) for index in outputs}
    wanted = set(given.values()) if given else set(list(read.values())[:1])
    if node.op_type in ONE_TYPE:
        wanted |= set(read.values())
    chosen = wanted & able & set(read.values())
    return Positions(_having(read, chosen), _having(given, chosen))


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    if not is_standard(node):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _type(parameters: Sequence[Any], index: int) -> str:
    """Return the type variable of a parameter; the last one may stand for many."""
    return str(parameters[min(index, len(parameters) - 1)].type_str)


def _having(types: dict[int, str], chosen: set[str]) -> frozenset[int]:
    return frozenset(index for index, name in types.items() if name in chosen)
