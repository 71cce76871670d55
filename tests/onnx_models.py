"""Tiny ONNX models for tests, as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

LAYER = """<ir_version: 8, opset_import: ["" : 17]>
layer (float[batch,4] x) => (float[batch,3] y)
<float[4,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] b = {-20, -10, 0}>
{ [matmul] h = MatMul(x, w)  [add] i = Add(h, b)  [relu] y = Relu(i) }"""
"""A layer as MatMul, Add and Relu, which the runtime fuses."""

FIXED_LAYER = LAYER.replace("batch", "4")

TWO_INPUTS = """<ir_version: 8, opset_import: ["" : 17]>
two (float[batch,2] left, int64[batch,2] right) => (float[batch,2] sum, int64[batch,2] twice)
{ [cast] r = Cast<to = 1>(right)  [add] sum = Add(left, r)  [double] twice = Add(right, right) }"""

IDENTITY = """<ir_version: 8, opset_import: ["" : 17]>
identity (float[batch,classes] x) => (float[batch,classes] y) { [same] y = Identity(x) }"""

SCALED = """<ir_version: 8, opset_import: ["" : 17]>
scaled (float[batch,classes] x) => (float[batch,classes] y) <float s = {FACTOR}> { [scale] y = Mul(x, s) }"""

STEPPED = """<ir_version: 8, opset_import: ["" : 17]>
stepped (float[batch,classes] x) => (float[batch,classes] y) <float s = {STEP}>
{ [divide] d = Div(x, s)  [round] r = Round(d)  [scale] y = Mul(r, s) }"""
"""Rounds to multiples of a step: a small quantizer."""


def write(path: Path, text: str) -> Path:
    """Write a model from its text and return the path."""
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def scaled(path: Path, factor: float) -> Path:
    """Write a model that multiplies its input by a factor."""
    return write(path, SCALED.replace("FACTOR", repr(factor)))


def stepped(path: Path, step: float) -> Path:
    """Write a model that rounds its input to multiples of a step."""
    return write(path, STEPPED.replace("STEP", repr(step)))


def wide(path: Path, size: int = 256, *, external: bool = False) -> Path:
    """Write a matrix product with ``size`` x ``size`` weights, in a file of their own if asked."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    wide (float[batch,{size}] x) => (float[batch,{size}] y) {{ [matmul] y = MatMul(x, w) }}"""
    model = parser.parse_model(text)
    weights = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path
