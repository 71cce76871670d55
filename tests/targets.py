"""Targets that not every machine has, and quantized models small enough for any of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mlc.errors import TargetError
from mlc.grammar.values import parse_target
from mlc.runtimes.one_node import try_target

QUANTIZED = """<ir_version: 8, opset_import: ["" : 17]>
quantized (float[batch,64] x) => (float[batch,32] y)
<float one = {1.0}, uint8 zero = {0}, float[32] scales, int8[32] none>
{ [quantize] q = QuantizeLinear(x, one, zero) [dequantize] a = DequantizeLinear(q, one, zero)
  [weight] w = DequantizeLinear<axis = 1>(codes, scales, none) [product] y = MatMul(a, w) }"""
"""A product of unsigned by signed bytes; ``codes`` are int8[64,32]."""


def usable(text):
    """Return a target and the device that it runs on; skip the test, with the runtime's reason, where it does not."""
    target = parse_target(text)
    try:
        return target, try_target(target)
    except TargetError as error:
        pytest.skip(f"{text}: {error.message}")


def quantized(path: Path, codes: np.ndarray) -> Path:
    """Write QUANTIZED with these codes, each channel with the scale 1."""
    model = onnx.parser.parse_model(QUANTIZED.replace(", float[32] scales, int8[32] none", ""))
    constants = {"codes": codes, "scales": np.ones(32, np.float32), "none": np.zeros(32, np.int8)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.save(model, path)
    return path
