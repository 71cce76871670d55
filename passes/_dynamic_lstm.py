"""LSTM as onnxruntime's own operator, which quantizes its inputs and its state at every step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from mlc.formats import constant, quantize_weight
from mlc.fusion import drop_unused_constant
from passes._dynamic_write import COLUMNS, product_codes
from passes._kernels import DOMAIN
from passes._qdq import Writer

OPERATOR = "DynamicQuantizeLSTM"

SMALL = """
(float[n,1,4] x, int8[1,4,8] w, int8[1,2,8] r, float[1,16] b, int32[1] lengths, float[1,1,2] h, float[1,1,2] c,
 float[1,6] p, float[1,8] w_scale, int8[1,8] w_zero_point, float[1] r_scale, int8[1] r_zero_point)
=> (float[n,1,1,2] y) {
  y = com.microsoft.DynamicQuantizeLSTM<hidden_size = 2>
      (x, w, r, b, lengths, h, c, p, w_scale, w_zero_point, r_scale, r_zero_point)
}"""
"""A graph that tells whether a target has the kernel."""

INPUTS = 12
WEIGHT, RECURRENCE = (1, 8), (2, 10)
"""Where a weight is read, and where its scales are, with the zero points behind them."""

UNLIKE = 8.0
"""How much larger the square of the largest scale may be than the mean of all squares, for one scale to do."""


def write_lstms(writer: Writer, nodes: Iterable[ir.Node], *, saturates: bool) -> None:
    """Let each LSTM read codes; a weight that several of them read is stored once.

    The operator has its weights [directions, inputs, 4 * hidden], the reverse of LSTM's, with a scale for each
    column of each direction, or for each direction. A recurrence weight, which is multiplied step by step, has the
    latter where its columns are alike: its kernel is up to 1.17 times as fast then.
    """
    written: dict[ir.Value, tuple[ir.Value, ...]] = {}
    for node in nodes:
        writer.graph.opset_imports.setdefault(DOMAIN, 1)
        node.resize_inputs(INPUTS)
        for index, place in (WEIGHT, RECURRENCE):
            value = node.inputs[index]
            assert value is not None
            if value not in written:
                written[value] = _write_weight(writer, value, _codes(value, index, saturates=saturates))
            for at, stored in zip((index, place, place + 1), written[value], strict=True):
                node.replace_input_with(at, stored)
            drop_unused_constant(value)
        recurrence = node.inputs[RECURRENCE[0]]
        assert recurrence is not None
        assert recurrence.shape is not None
        node.attributes.pop("layout", None)
        node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", int(recurrence.shape.numpy()[1]))
        node.op_type, node.domain = OPERATOR, DOMAIN


def _codes(value: ir.Value, index: int, *, saturates: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 codes of a weight [directions, 4 * hidden, inputs], turned, and its scales.

    Codes of a larger scale are no larger: what is safe from saturation by column is so with the largest scale of all.
    """
    tensor = constant(value)
    assert tensor is not None
    matrices = tensor.numpy().transpose(0, 2, 1)
    codes, scales = product_codes(matrices, saturates=saturates)
    largest = scales.max(axis=-1)
    if index != RECURRENCE[0] or (largest**2 > UNLIKE * np.mean(scales**2, axis=-1)).any():
        return codes, scales
    each = [
        quantize_weight(matrix, np.full(matrix.shape[-1], scale), COLUMNS)
        for matrix, scale in zip(matrices, largest, strict=True)
    ]
    return np.stack(each), largest


def _write_weight(writer: Writer, value: ir.Value, stored: tuple[np.ndarray, np.ndarray]) -> tuple[ir.Value, ...]:
    """Add codes, scales and zero points, as many as scales: the kernel counts both by the latter."""
    codes, scales = stored
    stem = value.name or ""
    return (
        writer.constant(f"{stem}.int8", np.ascontiguousarray(codes)),
        writer.constant(f"{stem}.scale", scales),
        writer.constant(f"{stem}.zero_point", np.zeros(scales.shape, np.int8)),
    )
