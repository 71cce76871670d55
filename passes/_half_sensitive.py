"""Operators that stay float32, and why: their inner steps leave float16 where their inputs and outputs do not."""

from __future__ import annotations

from collections.abc import Iterable

ADDS = "it adds up many values, and sums leave float16"
MULTIPLIES = "it multiplies many values, and products leave float16"
NORMALIZES = "it divides by a spread made of squares, which leave float16"
GROWS = "it takes powers or exponentials, which leave float16"
QUANTIZES = "scales of quantized values need more bits"
PLACES = "coordinates need more bits"
DRAWS = "what it draws would be other numbers"
BITS = "it reads the bits of float32"


def _because(reason: str, operators: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(operators, reason)


SENSITIVE = {
    **_because(
        ADDS,
        (
            "CumSum", "DFT", "Det", "GlobalLpPool", "LpPool", "ReduceL1", "ReduceL2", "ReduceLogSum",
            "ReduceLogSumExp", "ReduceMean", "ReduceSum", "ReduceSumSquare", "STFT",
            "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss",
        ),
    ),
    **_because(
        NORMALIZES,
        (
            "GroupNorm", "GroupNormalization", "InstanceNormalization", "LRN",
            "LayerNormalization", "LpNormalization", "RMSNormalization",
            "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
        ),
    ),
    **_because(GROWS, ("Cosh", "Exp", "Log", "LogSoftmax", "Mish", "Pow", "Sinh", "Softmax", "Softplus")),
}  # fmt: skip
"""What an option may give to float16 too."""

ALWAYS = {
    **_because(QUANTIZES, ("DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear")),
    **_because(PLACES, ("AffineGrid", "GridSample", "NonMaxSuppression", "RoiAlign", "MaxRoiPool")),
    **_because(ADDS, ("LinearAttention",)),
    **_because(MULTIPLIES, ("ReduceProd",)),
    **_because(NORMALIZES, ("BatchNormalization", "MeanVarianceNormalization")),
    **_because(GROWS, ("Tan",)),
    **_because(BITS, ("BitCast",)),
    **_because(DRAWS, ("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike")),
}
"""What stays float32 in any case."""

SCALES = {
    "DequantizeLinear": (1,), "DynamicQuantizeLSTM": (8, 10), "DynamicQuantizeMatMul": (2,),
    "GatherBlockQuantized": (2,), "MatMulIntegerToFloat": (2, 3), "MatMulNBits": (2,), "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6), "QuantizeLinear": (1,),
}  # fmt: skip
"""The places at which operators read scales of quantized values."""

BOUNDED = frozenset(
    {
        "Acos", "Asin", "Atan", "Cos", "Erf", "HardSigmoid", "Log", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh",
    }
)  # fmt: skip
"""Operators whose finite results lie within some hundreds, whatever they read: no range of these is asked for."""

PRODUCTS = frozenset(
    {
        "Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "FusedConv", "FusedMatMul", "GRU", "Gemm",
        "GroupQueryAttention", "LSTM", "MatMul", "MultiHeadAttention", "RNN",
    }
)  # fmt: skip
"""Operators that are worth a conversion on both sides."""

PASSING = frozenset(
    {
        "Abs", "Add", "Ceil", "CenterCropPad", "Clip", "Compress", "Concat", "CumSum", "DepthToSpace", "Div",
        "Dropout", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Identity",
        "LogSoftmax", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Pad", "Pow", "Reciprocal", "Relu",
        "Reshape", "Round", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Sqrt",
        "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators that pass on what their inputs are made of: whole numbers, or infinities."""

CASTING = frozenset({"Cast", "CastLike"})

TURNING = frozenset({"Abs", "Div", "Mul", "Neg", "Pow", "Reciprocal", "Sub"})
"""Operators that may give Inf where they read -Inf."""

MOVING = frozenset(
    {
        "Abs", "Clip", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Max", "Min",
        "Mul", "Neg", "Pad", "Reshape", "Slice", "Split", "Sqrt", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators behind which what is next to 0, and not 0, may be so still."""

DIVIDING = {"Div": 1, "Log": 0, "Pow": 0, "Reciprocal": 0}
"""The places at which operators read what may not be 0."""
