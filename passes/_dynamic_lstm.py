"""LSTM as onnxruntime's own operator, which quantizes its inputs and its state at every step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from mlc.formats import constant
from mlc.fusion import drop_unused_constant
from passes._dynamic_write import product_codes
from passes._kernels import DOMAIN
from passes._qdq import Writer

OPERATOR = "DynamicQuantizeLSTM"

SMALL = """
(float[n,1,4] x, int8[1,4,8] w, int8[1,2,8] r, float[1,16] b, int32[1] lengths, float[1,1,2] h, float[1,1,2] c,
 float[1,6] p, float[1,8] scale, int8[1,8] zero_point) => (float[n,1,1,2] y) {
  y = com.microsoft.DynamicQuantizeLSTM<hidden_size = 2>
      (x, w, r, b, lengths, h, c, p, scale, zero_point, scale, zero_point)
}"""
"""A graph that tells whether a target has the kernel."""

WEIGHTS = ((1, 8), (2, 10))
"""Where the weight and the recurrence weight are read, and where scales and zero points of each are; 12 inputs."""


def write_lstms(writer: Writer, nodes: Iterable[ir.Node], *, saturates: bool) -> None:
    """Let each LSTM read codes; a weight that several of them read is stored once.

    The operator has its weights [directions, inputs, 4 * hidden], the reverse of LSTM's, with a scale for each
    column of each direction.
    """
    written: dict[ir.Value, tuple[ir.Value, ...]] = {}
    for node in nodes:
        writer.graph.opset_imports.setdefault(DOMAIN, 1)
        node.resize_inputs(12)
        for index, place in WEIGHTS:
            value = node.inputs[index]
            assert value is not None
            if value not in written:
                written[value] = _write_weight(writer, value, saturates=saturates)
            for at, stored in zip((index, place, place + 1), written[value], strict=True):
                node.replace_input_with(at, stored)
            drop_unused_constant(value)
        recurrence = node.inputs[2]
        assert recurrence is not None
        assert recurrence.shape is not None
        node.attributes.pop("layout", None)
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(recurrence.shape.numpy()[1]))
        node.op_type, node.domain = OPERATOR, DOMAIN


def _write_weight(writer: Writer, value: ir.Value, *, saturates: bool) -> tuple[ir.Value, ...]:
    """Add codes, scales and zero points of a weight [directions, 4 * hidden, inputs]."""
    tensor = constant(value)
    assert tensor is not None
    codes, scales = product_codes(tensor.numpy().transpose(0, 2, 1), saturates=saturates)
    stem = value.name or ""
    return (
        writer.constant(f"{stem}.int8", np.ascontiguousarray(codes)),
        writer.constant(f"{stem}.scale", scales),
        writer.constant(f"{stem}.zero_point", np.zeros(scales.shape, np.int8)),
    )
