"""Keeping float what the plan keeps float.

onnxruntime (WeightBiasQuantization, at every load) gives a Conv, ConvTranspose or Gemm that stands between a
DequantizeLinear with one scale and a QuantizeLinear int8 weights of its own, by tensor and not safe from saturation.
It looks for a single scale only, so such a node reads its input through a DequantizeLinear that has the same scale once
for each channel: the same numbers, and the node stays as it is. Of one channel that would be a single scale again: it
is copied by a Max of itself alone, which no optimizer takes out.

An AveragePool between the two becomes one of integers, also where that has no dilation, or counts otherwise. It reads
such a copy too.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from mlc.formats import average_obstacle, constant, number
from passes._qdq import Writer


def keep_float(writer: Writer, chosen: Collection[ir.Node]) -> None:
    """Let the runtime keep every float node of a graph that has a constant weight, or that it would compute otherwise.

    One that reads what is dequantized around its branch or loop is left alone, as the runtime leaves it.
    """
    written: dict[tuple[ir.Value, int, int], ir.Value] = {}
    for node in tuple(writer.graph):
        source, channels = node.inputs[0] if node.inputs else None, _channels(node)
        dequantizer = None if source is None else source.producer()
        if node in chosen or channels is None or dequantizer is None or dequantizer.op_type != "DequantizeLinear":
            continue
        if dequantizer.graph is not writer.graph:
            continue
        key = (dequantizer.outputs[0], *channels)
        if key not in written:
            own = _copied(writer, dequantizer) if channels == ONE else _by_channel(writer, dequantizer, *channels)
            writer.graph.insert_after(dequantizer, own)
            written[key] = own.outputs[0]
        node.replace_input_with(0, written[key])
        output = dequantizer.outputs[0]
        if not output.uses() and not output.is_graph_output():
            writer.graph.remove(dequantizer, safe=True)


ONE = (0, 1)
"""A single channel, whatever its axis: nothing can have a scale for each."""


def _channels(node: ir.Node) -> tuple[int, int] | None:
    """Return the axis of the channels of a float node's input and their number, or None where it stays as it is."""
    if node.op_type == "AveragePool":
        return ONE if average_obstacle(node) else None
    found = _of_weight(node)
    return ONE if found is not None and found[1] == 1 else found


def _of_weight(node: ir.Node) -> tuple[int, int] | None:
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or weight.dtype != ir.DataType.FLOAT:
        return None
    shape = weight.numpy().shape
    if node.op_type == "Conv":
        return 1, shape[1] * int(number(node, "group", 1))
    if node.op_type == "ConvTranspose":
        return 1, shape[0]
    if node.op_type == "Gemm":
        return 1 - int(number(node, "transA", 0)), shape[int(number(node, "transB", 0))]
    if node.op_type == "MatMul" and len(shape) > 1:
        return -1, shape[-2]
    return None


def _copied(writer: Writer, dequantizer: ir.Node) -> ir.Node:
    output = dequantizer.outputs[0]
    return writer.node("Max", [output], f"{output.name}.copied", ir.DataType.FLOAT, output.shape)


def _by_channel(writer: Writer, dequantizer: ir.Node, axis: int, channels: int) -> ir.Node:
    codes, scale, zero_point = dequantizer.inputs
    output = dequantizer.outputs[0]
    stem = f"{output.name}.by_channel"
    parameters = [
        writer.constant(f"{stem}.{role}", np.full(channels, tensor.numpy()))
        for role, value in (("scale", scale), ("zero_point", zero_point))
        if (tensor := constant(value)) is not None
    ]
    assert codes is not None
    return writer.node("DequantizeLinear", [codes, *parameters], stem, ir.DataType.FLOAT, output.shape, axis=axis)
