"""Products whose weights a module leaves as floats, kept so.

When it loads a file, onnxruntime gives a Conv, ConvTranspose or Gemm between a DequantizeLinear with one scale and a
QuantizeLinear int8 weights of its own, by tensor; it moves both over shapes and pooling to get there. It looks for a
single scale only, so such a product reads its input through a DequantizeLinear that has the same scale once for each
index of an axis: the same numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mlc.exporting.quantized.nodes import Writer
from mlc.formats import PRODUCTS, constant
from mlc.formats.coverage import FOLDING, MOVING

CROSSED = MOVING | FOLDING | {"Identity", "MaxPool", "Pad"}
"""Operators over which the runtime may move a quantizer."""


def keep_float(writer: Writer) -> None:
    """Give every product with a constant float weight an input that the runtime takes for no integers."""
    written: dict[ir.Value, ir.Value] = {}
    for node in tuple(writer.graph):
        weight = constant(node.inputs[1]) if node.op_type in PRODUCTS else None
        if weight is None or weight.dtype != ir.DataType.FLOAT:
            continue
        reader, dequantizer = _above(node)
        if dequantizer is None or not _has_one_scale(dequantizer):
            continue
        output = dequantizer.outputs[0]
        if output not in written:
            made = _by_index(writer, dequantizer)
            if made is None:
                continue
            written[output] = made
        reader.replace_input_with(0, written[output])


def _above(node: ir.Node) -> tuple[ir.Node, ir.Node | None]:
    """Return the dequantizer that a product's input comes from, if one, and the node that reads it on the way."""
    reader = node
    while True:
        source = reader.inputs[0]
        producer = None if source is None else source.producer()
        if producer is None or producer.op_type == "DequantizeLinear":
            return reader, producer
        if producer.op_type not in CROSSED:
            return reader, None
        reader = producer


def _has_one_scale(dequantizer: ir.Node) -> bool:
    scale = constant(dequantizer.inputs[1])
    return scale is not None and scale.size == 1


def _by_index(writer: Writer, dequantizer: ir.Node) -> ir.Value | None:
    """Write a dequantizer with a scale for each index of an axis of known size; None where there is no such axis."""
    codes, scale, zero = dequantizer.inputs
    output = dequantizer.outputs[0]
    shape = output.shape
    known = [] if shape is None else [axis for axis, size in enumerate(shape) if isinstance(size, int) and size > 1]
    scales, zeros = constant(scale), constant(zero)
    if codes is None or shape is None or not known or scales is None or zeros is None:
        return None
    axis = known[0] or known[min(1, len(known) - 1)]
    size = shape[axis]
    assert isinstance(size, int)
    name = f"{output.name}.by_index"
    inputs = [
        codes,
        *(
            writer.constant(f"{name}.{role}", np.full(size, tensor.numpy()))
            for role, tensor in (("scale", scales), ("zero_point", zeros))
        ),
    ]
    made = writer.node(dequantizer, "DequantizeLinear", name, inputs, ir.DataType.FLOAT, axis=axis)
    made.shape = shape
    return made
