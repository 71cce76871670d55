"""What other hardware computes: 8-bit products that are added in 16 bits, as on x86 without VNNI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlc.figures import counted
from mlc.formats import FOLDING, ORDERS, PASSING, Order, WeightLayout, layout_of, pairs, saturating_pairs
from mlc.formats.affine import LARGEST_ACTIVATION
from mlc.formats.layout import product_matrix
from mlc.formats.nodes import constant, input_at, integers, number, site_of
from mlc.formats.operators import INTEGER_OPERATORS, PRODUCTS, WEIGHTED
from mlc.formats.saturation import HIGHEST, LOWEST
from mlc.fusion import codes_dtype

if TYPE_CHECKING:
    from mlc.types import Array

SHIFT = 128
"""What OpenVINO adds to signed activations, which makes unsigned ones of them."""

NAMED = 3
"""How many nodes a sentence names."""

MATMUL_INTEGER, DYNAMIC_LSTM = "MatMulInteger", "DynamicQuantizeLSTM"

PASSED = PASSING | {"Expand", "Gather", "Identity", "Split"}
"""Operators that the runtime may move a dequantizer past."""

COLUMNS = WeightLayout("MatMul", 1)
"""A matrix whose columns are the output channels."""

RUNTIMES = {
    Order.ONNXRUNTIME: "onnxruntime (x86 without VNNI)",
    Order.OPENVINO: "OpenVINO (x86 without VNNI)",
}


@dataclass(frozen=True)
class Product:
    """A node that multiplies bytes by signed bytes: its site, its weight's codes and their layout.

    ``highest`` is the largest code of its activations as unsigned bytes. ``signed`` ones are shifted up by OpenVINO,
    and by onnxruntime on x86 (QDQS8ToU8Transformer) where a QuantizeLinear with a constant scale gives them; others,
    which are ``wide``, it adds up in 32 bits.
    """

    site: str
    codes: NDArray[np.int8]
    layout: WeightLayout
    highest: int = LARGEST_ACTIVATION
    signed: bool = False
    wide: bool = False

    def is_cut(self, order: Order) -> bool:
        """Whether a runtime adds pairs of its products in 16 bits."""
        return not (self.wide and order is Order.ONNXRUNTIME)


def saturation_proof(model: ir.Model) -> tuple[str, ...]:
    """Return what can be proven of a written quantized model about sums of products in 16 bits.

    One sentence names all runtimes on which none can saturate, one each those on which some may, with the first nodes.
    It is computed from the stored codes alone, for the worst activations that there are. Nodes of which nothing can be
    said (see ``unproven``) are named, and then no runtime is called safe. A model without integer products gives no
    sentence.
    """
    products, unknown = integer_products(model), unproven(model)
    broken = {order: [_text(product, order) for product in products if _count(product, order)] for order in ORDERS}
    safe = [RUNTIMES[order] for order in ORDERS if products and not broken[order]]
    sentences = [f"no product sum saturates on: {', '.join(safe)}"] if safe and not unknown else []
    sentences += [
        f"product sums may saturate on {RUNTIMES[order]} in {first_of(broken[order])}"
        for order in ORDERS
        if broken[order]
    ]
    if unknown:
        sentences.append(f"nothing is proven about the product sums of {first_of(unknown)}")
    return tuple(sentences)


def first_of(nodes: Sequence[str]) -> str:
    """Return the first of the nodes as a part of a sentence."""
    more = f" and {counted(len(nodes) - NAMED, 'more node')}" if len(nodes) > NAMED else ""
    return f"{', '.join(nodes[:NAMED])}{more}"


def _text(product: Product, order: Order) -> str:
    return f"{product.site} ({counted(_count(product, order), 'pair')})"


def _count(product: Product, order: Order) -> int:
    if not product.is_cut(order):
        return 0
    return saturating_pairs(product.codes, product.layout, order, product.highest)


def integer_products(model: ir.Model) -> tuple[Product, ...]:
    """Return the nodes that multiply 8-bit activations by s8 weights that can be seen in the file.

    These are Conv, MatMul and Gemm nodes between dequantizers, MatMulInteger, and DynamicQuantizeLSTM with two weights.
    """
    return tuple(product for node in _nodes(model) for product in _products(node))


def _products(node: ir.Node) -> tuple[Product, ...]:
    """Return what a node multiplies; a stack of matrices is one with the columns of all."""
    found = product_at(node)
    if found is None:
        stored = [stored_array(input_at(node, index)) for index in (1, 2)] if node.op_type == DYNAMIC_LSTM else []
        codes = [product_matrix(each) for each in stored if each is not None and each.dtype == np.int8]
        return tuple(Product(site_of(node), each, COLUMNS) for each in codes) if len(codes) == len(stored) else ()
    if found.layout.op == "MatMul":
        found = replace(found, codes=product_matrix(found.codes), layout=COLUMNS)
    return (found,)


def saturating_nodes(model: ir.Model, order: Order) -> tuple[ir.Node, ...]:
    """Return the nodes whose product sums may saturate, those of branches and bodies of loops too."""
    return tuple(node for node in _nodes(model) if any(_count(product, order) for product in _products(node)))


def unproven(model: ir.Model) -> tuple[str, ...]:
    """Return the sites of integer products whose weights cannot be seen in the file.

    These are products of two dequantized activations, or of weights that are not s8; those of what is dequantized and
    then moved, since the runtime moves the dequantizer behind that; integer operators written out;
    calls of functions that read dequantized activations, since the runtime inlines what is in them; and Conv,
    ConvTranspose and Gemm nodes with a float weight between a dequantizer with one scale and a quantizer, for which
    onnxruntime makes int8 weights of its own when it loads the file.
    """
    return tuple(site_of(node) for node in _nodes(model) if _is_unproven(node) or _calls(node, model))


def _calls(node: ir.Node, model: ir.Model) -> bool:
    return node.op_identifier() in model.functions and any(_dequantizer(value) is not None for value in node.inputs)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for graph in model.graphs() for node in graph)


def product_at(node: ir.Node) -> Product | None:
    """Return what a node multiplies, or None where it is not such a product or its weight cannot be seen."""
    found = stored_codes(node)
    codes = None if found is None else stored_array(found[1])
    if found is None or codes is None or codes.dtype != np.int8 or not _is_in_bytes(found[0]):
        return None
    group, trans_b = int(number(node, "group", 1)), bool(number(node, "transB", 0))
    op = "MatMul" if node.op_type == MATMUL_INTEGER else node.op_type
    codes = product_matrix(codes) if op == "MatMul" else codes
    highest, signed = _highest(found[0])
    layout = layout_of(op, codes.ndim, group=group, trans_b=trans_b)
    return Product(site_of(node), codes, layout, highest, signed, signed and not _is_shifted(found[0]))


def _is_in_bytes(codes: ir.Value | None) -> bool:
    """Whether codes of activations may have 8 bits: the kernels that add up in 16 bits multiply no others."""
    dtype = None if codes is None else codes_dtype(codes)
    return dtype in (None, ir.DataType.UINT8, ir.DataType.INT8)


def _is_shifted(codes: ir.Value) -> bool:
    """Whether onnxruntime gives signed codes of activations another zero point, which makes them unsigned."""
    quantizer = codes.producer()
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return False
    parameters = [constant(input_at(quantizer, index)) for index in (1, 2)]
    return all(tensor is not None and tensor.size == 1 for tensor in parameters)


def stored_codes(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return the codes of the activations and those of the weight that a node multiplies, or None.

    Products of codes add up only where all that a sum takes in have one scale: of weights with other scales than those
    of the output channels it is None.
    """
    sides = [input_at(node, index) for index in (0, 1)]
    if node.op_type in WEIGHTED:
        dequantizers = [_dequantizer(value) for value in sides]
        if dequantizers[1] is not None and not _by_channel(node, dequantizers[1]):
            return None
        sides = [None if each is None else each.inputs[0] for each in dequantizers]
    elif node.op_type != MATMUL_INTEGER:
        return None
    activation, weight = sides
    return None if activation is None or weight is None else (activation, weight)


def _by_channel(node: ir.Node, dequantizer: ir.Node) -> bool:
    """Whether a weight has one scale, or one for each of the node's output channels."""
    codes, scale = dequantizer.inputs[0], input_at(dequantizer, 1)
    if scale is None or number(dequantizer, "block_size", 0):
        return False
    if is_one(scale):
        return True
    rank = 0 if codes is None or codes.shape is None else codes.shape.rank()
    if scale.shape is None or rank < 2:  # noqa: PLR2004 - a vector is added up along its only axis
        return False
    layout = layout_of(node.op_type, rank, trans_b=bool(number(node, "transB", 0)))
    return int(number(dequantizer, "axis", 1)) % rank == layout.axis


def is_one(value: ir.Value) -> bool:
    """Whether a scale or zero point is known to be that of the whole tensor."""
    return value.shape is not None and all(size == 1 for size in value.shape)


def _highest(codes: ir.Value | None) -> tuple[int, bool]:
    """Return the largest code that activations have, as unsigned bytes, and whether they are signed ones."""
    signed = codes is not None and codes.dtype is ir.DataType.INT8
    clip = None if codes is None else codes.producer()
    end = input_at(clip, 2) if clip is not None and clip.op_type == "Clip" else None
    bound = constant(end)
    if end is None or bound is None or end.is_graph_input():
        return LARGEST_ACTIVATION, signed
    return min(LARGEST_ACTIVATION, int(bound.numpy()) + (SHIFT if signed else 0)), signed


def _is_unproven(node: ir.Node) -> bool:
    if _products(node):
        return False
    if node.op_type in INTEGER_OPERATORS:
        return True
    if node.op_type not in PRODUCTS:
        return False
    activation, stored = (_dequantizer(_moved(input_at(node, index))) for index in (0, 1))
    if activation is None or constant(activation.inputs[0]) is not None or not _is_in_bytes(activation.inputs[0]):
        return False
    if stored is not None:
        return True
    scale, weight = input_at(activation, 1), constant(input_at(node, 1))
    one_scale = scale is not None and is_one(scale)
    return node.op_type != "MatMul" and one_scale and weight is not None and _reaches_quantizer(node.outputs[0])


def _reaches_quantizer(value: ir.Value) -> bool:
    """Whether the only reader of a value is a quantizer, or a Relu or Clip before one."""
    readers = [use for use, _ in value.uses()]
    if len(readers) != 1:
        return False
    if readers[0].op_type in FOLDING:
        return _reaches_quantizer(readers[0].outputs[0])
    return readers[0].op_type == "QuantizeLinear"


def _moved(value: ir.Value | None) -> ir.Value | None:
    """Return the value whose elements these are: the runtime moves dequantizers past what only moves them."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in PASSED:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return value


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def stored_array(value: ir.Value | None) -> Array | None:
    """Return a constant that no caller may override, or the transpose of one."""
    tensor = constant(value)
    if tensor is not None:
        return None if value is not None and value.is_graph_input() else tensor.numpy()
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose":
        return None
    stored = stored_array(node.inputs[0])
    return None if stored is None else stored.transpose(integers(node, "perm") or None)


def exact_sums(activations: NDArray[np.uint8], codes: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return u8 [rows, k] times s8 [channels, k], added in 32 bits: int32 [rows, channels]."""
    return activations.astype(np.int32) @ codes.T.astype(np.int32)


def saturating_sums(
    activations: NDArray[np.uint8], codes: NDArray[np.int8], layout: WeightLayout, order: Order
) -> NDArray[np.int32]:
    """Return what a processor without VNNI computes: each pair of products is cut to 16 bits before it is added.

    ``activations`` are u8 [rows, k], k running as the weight's elements of one channel do in ``WeightLayout.rows``
    (taps first, then channels); the result is int32 [rows, channels]. Depthwise kernels add in 32 bits.
    """
    if layout.depthwise(codes.shape):
        return exact_sums(activations, layout.rows(codes).reshape(len(codes), -1))
    taps, channels = layout.rows(codes).shape[1:]
    as_weight = WeightLayout("MatMul", 0) if layout.op != "Conv" else WeightLayout("Conv", 0)
    shaped = activations.reshape(-1, taps, channels)
    shaped = shaped[:, 0] if as_weight.op == "MatMul" else np.moveaxis(shaped, 1, 2)
    left = pairs(shaped, as_weight, order).astype(np.int32)
    right = pairs(codes, layout, order).astype(np.int32)
    sums = np.einsum("rpi,cpi->rcp", left, right)
    result: NDArray[np.int32] = sums.clip(LOWEST, HIGHEST).sum(axis=2, dtype=np.int32)
    return result
