"""How many multiply-adds a node takes: products of matrices, convolutions, attention and recurrent layers.

Everything else works element by element, or moves values about, and takes none in this sense. What is not known is
said, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import onnx

from mlc.inspecting.shapes import CONTRIB, STANDARD, Shape, Values, attributes, whole

Count: TypeAlias = "int | str"
"""Multiply-adds, or why they are not known."""

SHAPES_UNKNOWN = "its shapes are not known at these sizes"

OTHERS = frozenset({
    "BiasAdd", "BiasGelu", "BiasSplitGelu", "DequantizeLinear", "EmbedLayerNormalization", "FastGelu",
    "GatherBlockQuantized", "Gelu", "GroupNorm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid",
    "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu", "RotaryEmbedding", "SkipGroupNorm",
    "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""Operators of onnxruntime's own domain that multiply no matrices."""

UNCOUNTED = frozenset({"DFT", "Det", "MelWeightMatrix", "STFT"})
"""Standard operators that multiply and add in ways that their shapes do not tell."""


def multiply_adds(node: onnx.NodeProto, values: Values) -> Count:
    """Return the multiply-adds of one run of a node, or why they are not known."""
    if node.domain not in {*STANDARD, CONTRIB}:
        return f"what {node.domain}.{node.op_type} computes is not known"
    if node.domain in STANDARD and node.op_type in UNCOUNTED:
        return "they do not follow from its shapes"
    rule = (RULES if node.domain in STANDARD else CONTRIB_RULES).get(node.op_type)
    if rule is None:
        known = node.domain in STANDARD or node.op_type in OTHERS
        return 0 if known else f"what {node.domain}.{node.op_type} computes is not known"
    shapes = [values.shape(name) if name else None for name in node.input]
    found = rule(node, shapes, values.shape(node.output[0]) if node.output else None)
    return SHAPES_UNKNOWN if found is None else found


def _convolution(weight: int) -> Callable[..., int | None]:
    """Every output element is the sum over one filter: channels of a group times the kernel."""

    def count(_node: onnx.NodeProto, shapes: Sequence[Shape | None], out: Shape | None) -> int | None:
        filters = _at(shapes, weight)
        return None if out is None or filters is None else math.prod(out) * math.prod(filters[1:])

    return count


def _transposed(_node: onnx.NodeProto, shapes: Sequence[Shape | None], _out: Shape | None) -> int | None:
    """Every input element is spread over one filter."""
    values, filters = _at(shapes, 0), _at(shapes, 1)
    return None if values is None or filters is None else math.prod(values) * math.prod(filters[1:])


def _product(_node: onnx.NodeProto, shapes: Sequence[Shape | None], out: Shape | None) -> int | None:
    left = _at(shapes, 0)
    return None if out is None or not left else math.prod(out) * left[-1]


def _transposable(left: str) -> Callable[..., int | None]:
    """A product of matrices whose left one may be transposed by the attribute of that name."""

    def count(node: onnx.NodeProto, shapes: Sequence[Shape | None], out: Shape | None) -> int | None:
        matrix = _at(shapes, 0)
        if out is None or matrix is None or len(matrix) < 2:  # noqa: PLR2004
            return None
        return math.prod(out) * matrix[-2 if whole(node, left) else -1]

    return count


def _few_bits(node: onnx.NodeProto, shapes: Sequence[Shape | None], _out: Shape | None) -> int | None:
    values = _at(shapes, 0)
    return None if values is None else math.prod(values[:-1]) * whole(node, "K") * whole(node, "N")


def _einsum(node: onnx.NodeProto, shapes: Sequence[Shape | None], _out: Shape | None) -> int | None:
    """Two operands: one product for each combination of indexes. The order of more is the runtime's."""
    equation = attributes(node).get("equation", b"")
    text = equation.decode() if isinstance(equation, bytes) else ""
    terms = text.replace(" ", "").partition("->")[0].split(",")
    if len(shapes) == 1:
        return 0
    if len(terms) != 2 or len(shapes) != 2:  # noqa: PLR2004
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        if shape is None:
            return None
        before, dots, after = term.partition("...")
        free = len(shape) - len(before) - len(after)
        letters = [*before, *(f"...{index - free}" for index in range(free if dots else 0)), *after]
        if len(letters) != len(shape):
            return None
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def _recurrent(_node: onnx.NodeProto, shapes: Sequence[Shape | None], _out: Shape | None) -> int | None:
    """Each step of each sequence multiplies by both weights of each direction."""
    steps, weights, recurrence = _at(shapes, 0), _at(shapes, 1), _at(shapes, 2)
    if steps is None or weights is None or recurrence is None:
        return None
    return math.prod(steps[:2]) * (math.prod(weights) + math.prod(recurrence))


def _attention(node: onnx.NodeProto, shapes: Sequence[Shape | None], _out: Shape | None) -> int | None:
    """Queries times keys, and weights times values, over all positions, masked ones too.

    Inputs are [batch, heads, length, size], or [batch, length, heads * size]; past keys lengthen the keys.
    """
    query, key, value = _at(shapes, 0), _at(shapes, 1), _at(shapes, 2)
    if query is None or key is None or value is None:
        return None
    if _given(node, 4) and _at(shapes, 4) is None:
        return None
    past = _at(shapes, 4)
    length = key[-2] + (past[-2] if past is not None else 0)
    if len(query) == 4:  # noqa: PLR2004
        batch, heads, positions, size = query
        return batch * heads * positions * length * (size + value[-1])
    heads, shared = whole(node, "q_num_heads"), whole(node, "kv_num_heads")
    if not heads or not shared or len(query) != 3:  # noqa: PLR2004
        return None
    batch, positions, width = query
    return batch * positions * length * (width + value[-1] // shared * heads)


def _multi_head(node: onnx.NodeProto, shapes: Sequence[Shape | None], _out: Shape | None) -> int | None:
    """Attention of onnxruntime's own domain over queries, keys and values of [batch, length, width], without a past."""
    query, key, value = _at(shapes, 0), _at(shapes, 1), _at(shapes, 2)
    if _given(node, 6) or query is None or key is None or value is None:
        return None
    if not len(query) == len(key) == len(value) == 3:  # noqa: PLR2004
        return None
    return query[0] * query[1] * key[1] * (query[2] + value[2])


def _packed_attention(past: int) -> Callable[..., int | None]:
    """Attention of onnxruntime's own domain that projects [batch, length, width] by [width, 3 * size] first."""

    def count(node: onnx.NodeProto, shapes: Sequence[Shape | None], _out: Shape | None) -> int | None:
        given, weights = _at(shapes, 0), _at(shapes, 1)
        if _given(node, past) or "qkv_hidden_sizes" in attributes(node) or given is None or weights is None:
            return None
        if len(given) != 3:  # noqa: PLR2004
            return None
        batch, length, width = given
        return batch * length * (width * weights[-1] + 2 * length * weights[-1] // 3)

    return count


def _given(node: onnx.NodeProto, index: int) -> bool:
    return index < len(node.input) and bool(node.input[index])


def _at(shapes: Sequence[Shape | None], index: int) -> Shape | None:
    return shapes[index] if index < len(shapes) else None


Rule: TypeAlias = Callable[[onnx.NodeProto, Sequence[Shape | None], Shape | None], "int | None"]

RULES: Mapping[str, Rule] = {
    "Attention": _attention,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "ConvTranspose": _transposed,
    "DeformConv": _convolution(1),
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _transposable("transA"),
    "LSTM": _recurrent,
    "MatMul": _product,
    "MatMulInteger": _product,
    "QLinearConv": _convolution(3),
    "QLinearMatMul": _product,
    "RNN": _recurrent,
}
"""What each standard operator multiplies."""

CONTRIB_RULES: Mapping[str, Rule] = {
    "Attention": _packed_attention(4),
    "DynamicQuantizeLSTM": _recurrent,
    "DynamicQuantizeMatMul": _product,
    "FusedConv": _convolution(1),
    "FusedGemm": _transposable("transA"),
    "FusedMatMul": _transposable("transA"),
    "MatMulIntegerToFloat": _product,
    "MatMulNBits": _few_bits,
    "MultiHeadAttention": _multi_head,
    "QAttention": _packed_attention(8),
    "QGemm": _transposable("transA"),
    "QLinearConv": _convolution(3),
}
"""The same of onnxruntime's own domain."""
