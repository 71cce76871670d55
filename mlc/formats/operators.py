"""Which operators multiply by weights, make codes or compute on them: every list of one meaning once."""

from __future__ import annotations

MATRIX_PRODUCTS = frozenset({"Gemm", "MatMul"})
"""Products of matrices."""

WEIGHTED = MATRIX_PRODUCTS | {"Conv"}
"""Products that have an integer form between dequantizers and quantizers."""

PRODUCTS = WEIGHTED | {"ConvTranspose"}
"""Products of an activation with the weight at their second input."""

QUANTIZERS = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
"""Operators between numbers and their codes."""

INTEGER_OPERATORS = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
})  # fmt: skip
"""Operators that multiply 8-bit integers themselves, ONNX's and onnxruntime's own."""

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
"""Operators that give something else each time."""

ON_CODES = QUANTIZERS | {"DynamicQuantizeLSTM", "GatherBlockQuantized", "MatMulInteger", "MatMulNBits"}
"""Operators that make codes, or compute on them, in what passes write."""
