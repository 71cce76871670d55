"""What a node multiplies and adds: its activations, its weight and bias, and why they cannot be quantized, if so.

ONNX nodes are read through their own attributes; nothing of the IR is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlc.formats.layout import WeightLayout, layout_of
from mlc.formats.operators import WEIGHTED

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array

STANDARD = ("", "ai.onnx")
"""The names of the domain of ONNX's own operators; those of other domains may have the same names."""

LARGE = 1e4
"""A constant addend of this magnitude is a mask, never data."""


@dataclass(frozen=True)
class Weight:
    """The stored weight of a node and its layout; ``transposed`` where the node reads it through a Transpose."""

    value: ir.Value
    layout: WeightLayout
    transposed: bool = False


@dataclass(frozen=True)
class Bias:
    """The stored bias of a node, and who reads it at which input: a MatMul's is added by an Add behind it."""

    value: ir.Value
    reader: ir.Node
    index: int


def site_of(node: ir.Node) -> str:
    """Return the name by which a node is known: that of its first output, of those that it gives."""
    return next((value.name for value in node.outputs if value.name), "")


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of an initializer or of a Constant node, or None."""
    if value is None:
        return None
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in STANDARD or "value" not in node.attributes:
        return None
    return node.attributes["value"].as_tensor()


def number(node: ir.Node, attribute: str, default: float) -> float:
    """Return a numeric attribute of a node, or its default."""
    return float(node.attributes[attribute].value) if attribute in node.attributes else default


def text(node: ir.Node, attribute: str, default: str) -> str:
    """Return an attribute that is a text, or its default."""
    return node.attributes[attribute].as_string() if attribute in node.attributes else default


def integers(node: ir.Node, attribute: str) -> list[int]:
    """Return an attribute that is a list of integers, empty where it is absent."""
    return list(node.attributes[attribute].as_ints()) if attribute in node.attributes else []


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node, None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def weight_of(node: ir.Node) -> Weight | None:
    """Return the constant weight of a Conv, Gemm or MatMul, or None."""
    if node.op_type not in WEIGHTED or node.domain not in STANDARD:
        return None
    value = input_at(node, 1)
    tensor = constant(value)
    if value is not None and tensor is not None:
        group, trans_b = int(number(node, "group", 1)), bool(number(node, "transB", 0))
        return Weight(value, layout_of(node.op_type, len(tensor.shape), group=group, trans_b=trans_b))
    stored = _transposed(value) if node.op_type == "MatMul" else None
    return None if stored is None else Weight(stored, WeightLayout("MatMul", 0), transposed=True)


def _transposed(value: ir.Value | None) -> ir.Value | None:
    """Return the constant matrix of which a value is the transpose, as for a head that shares an embedding's weight."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose" or integers(node, "perm") not in ([], [1, 0]):
        return None
    tensor = constant(node.inputs[0])
    return node.inputs[0] if tensor is not None and len(tensor.shape) == 2 else None  # noqa: PLR2004 - a matrix


def bias_of(node: ir.Node) -> Bias | None:
    """Return the bias of a Conv or Gemm, or the constant vector that is added to a MatMul, or None."""
    if node.op_type != "MatMul":
        value = input_at(node, 2)
        return None if value is None else Bias(value, node, 2)
    uses = tuple(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    reader = uses[0].node
    if product_of(reader) is not node:
        return None
    index = 1 - uses[0].idx
    value = reader.inputs[index]
    return None if value is None else Bias(value, reader, index)


def product_of(node: ir.Node) -> ir.Node | None:
    """Return the MatMul to which an Add adds nothing but a constant float vector over the outputs, or None."""
    if node.op_type != "Add":
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        product = None if value is None else value.producer()
        if product is None or value is None or product.op_type != "MatMul" or len(value.uses()) != 1:
            continue
        weight = weight_of(product)
        if weight is None or value.is_graph_output() or _addend_obstacle(other):
            continue
        stored = constant(weight.value)
        if stored is not None and _is_vector(other, int(stored.numpy().shape[weight.layout.axis]), product):
            return product
    return None


def _is_vector(value: ir.Value | None, outputs: int, product: ir.Node) -> bool:
    tensor = constant(value)
    if tensor is None:
        return False
    shape = tensor.numpy().shape
    rank = product.outputs[0].shape
    spread = len(shape) <= 1 or (rank is not None and len(shape) <= rank.rank())
    return spread and shape[:-1] == (1,) * (len(shape) - 1) and tensor.size in (1, outputs)


def _addend_obstacle(value: ir.Value | None) -> str:
    return constant_obstacle(value, "bias") or ("its bias is a mask" if is_mask(value) else "")


def weight_obstacle(node: ir.Node) -> str:
    """Return why the weight or the bias of a Conv, Gemm or MatMul cannot be quantized, or nothing."""
    weight = weight_of(node)
    stored = input_at(node, 1)
    if weight is None and stored is not None and is_quantized(stored):
        return f"its weight {stored.name} is quantized already"
    if node.op_type == "MatMul" and weight is None:
        first = constant(node.inputs[0])
        return "both sides are activations" if first is None else "its first input is a constant"
    if constant(node.inputs[0]) is not None:
        return "its first input is a constant"
    problem = constant_obstacle(node.inputs[1] if weight is None else weight.value, "weight")
    if problem or weight is None:
        return problem
    return _bias_obstacle(node) if node.op_type == "Conv" else _matrix_obstacle(node, weight)


def is_quantized(value: ir.Value) -> bool:
    """Whether a value is what stored codes mean, or the transpose of that."""
    node = value.producer()
    while node is not None and node.op_type == "Transpose" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is not None


def _bias_obstacle(node: ir.Node) -> str:
    return "" if input_at(node, 2) is None else constant_obstacle(node.inputs[2], "bias")


def _matrix_obstacle(node: ir.Node, weight: Weight) -> str:
    tensor = constant(weight.value)
    assert tensor is not None
    shape = tensor.numpy().shape
    if len(shape) != 2:  # noqa: PLR2004 - a matrix
        return "its weight is not a matrix"
    if node.op_type == "MatMul":
        return ""
    if number(node, "alpha", 1.0) != 1 or number(node, "beta", 1.0) != 1 or number(node, "transA", 0) != 0:
        return "alpha, beta or transA is not the default"
    bias = constant(input_at(node, 2))
    if bias is not None and bias.size not in (1, shape[weight.layout.axis]):
        return "its bias is not a vector over the outputs"
    if bias is not None and bias.size > 1 and bias.numpy().shape[-1] != bias.size:
        return "its bias is not a vector over the outputs"
    return _bias_obstacle(node)


def constant_obstacle(value: ir.Value | None, role: str) -> str:
    """Return why a value is no finite float32 constant that is the graph's own, or nothing."""
    tensor = constant(value)
    if value is None or tensor is None:
        return f"its {role} is not constant"
    if value.is_graph_input():
        return f"its {role} {value.name} is an input that a caller may override"
    if tensor.dtype.name != "FLOAT":
        return f"its {role} is {tensor.dtype.name.lower()}, not float32"
    if tensor.size == 0:
        return f"its {role} is empty"
    return "" if bool(np.isfinite(tensor.numpy()).all()) else f"its {role} {value.name} holds NaN or Inf"


def is_mask(value: ir.Value | None) -> bool:
    """Whether a constant holds infinities or magnitudes that only a mask has."""
    tensor = constant(value)
    if tensor is None or tensor.size == 0 or tensor.dtype.name not in ("FLOAT", "FLOAT16", "DOUBLE"):
        return False
    array: Array = np.asarray(tensor.numpy(), np.float64)
    return bool((~np.isfinite(array)).any() or np.abs(array).max() >= LARGE)


def clips_around_zero(node: ir.Node) -> bool:
    """Whether a Clip's bounds are constants (or absent) with 0 between them, so that a quantizer can do its work."""
    low, high = (_bound(node, index) for index in (1, 2))
    return (low is None or low <= 0) and (high is None or high >= 0)


def upper_bound(node: ir.Node) -> float:
    """Return what a Clip cuts at above, NaN where that is not known; infinity for a Relu and a Clip without a bound."""
    high = _bound(node, 2) if node.op_type == "Clip" else None
    return float("inf") if high is None else high


def _bound(node: ir.Node, index: int) -> float | None:
    value = input_at(node, index)
    if value is None:
        return None
    tensor = constant(value)
    if tensor is None or value.is_graph_input() or tensor.size != 1:
        return float("nan")
    return float(tensor.numpy().reshape(()))


def averages_space(node: ir.Node) -> bool:
    """Whether a ReduceMean runs over all axes behind batch and channels, as GlobalAveragePool does."""
    source, given = node.inputs[0], input_at(node, 1)
    if source is None or source.shape is None or source.shape.rank() < 3:  # noqa: PLR2004 - batch, channels, space
        return False
    tensor = constant(given)
    if "axes" in node.attributes:
        axes = integers(node, "axes")
    elif given is not None and tensor is not None and not given.is_graph_input():
        axes = [int(axis) for axis in tensor.numpy().reshape(-1)]
    else:
        return False
    rank = source.shape.rank()
    return sorted(axis % rank for axis in axes) == list(range(2, rank))
