"""How numbers become integers: scales, zero points, axes, pair orders, and which operators have an integer form.

NumPy only; graphs are read through the objects that the caller has.
"""

from mlc.formats.affine import (
    Affine,
    activation_parameters,
    bias_codes,
    bias_safe_scales,
    dequantize,
    full_scales,
    quantize,
    quantize_weight,
)
from mlc.formats.coverage import (
    COMBINING,
    FOLDING,
    INT8_STATIC,
    KEPT_BY_PLAN,
    PASSING,
    Choice,
    carries,
    clamps_product,
    data_inputs,
    int8_nodes,
    static_choices,
)
from mlc.formats.layout import WeightLayout, layout_of, weight_axis
from mlc.formats.nodes import WEIGHTED, Bias, Weight, bias_of, constant, number, product_of, site_of, weight_of
from mlc.formats.saturation import ORDERS, Order, pairs, pairs_fit, safe_scales, saturating_pairs

__all__ = [
    "COMBINING",
    "FOLDING",
    "INT8_STATIC",
    "KEPT_BY_PLAN",
    "ORDERS",
    "PASSING",
    "WEIGHTED",
    "Affine",
    "Bias",
    "Choice",
    "Order",
    "Weight",
    "WeightLayout",
    "activation_parameters",
    "bias_codes",
    "bias_of",
    "bias_safe_scales",
    "carries",
    "clamps_product",
    "constant",
    "data_inputs",
    "dequantize",
    "full_scales",
    "int8_nodes",
    "layout_of",
    "number",
    "pairs",
    "pairs_fit",
    "product_of",
    "quantize",
    "quantize_weight",
    "safe_scales",
    "saturating_pairs",
    "site_of",
    "static_choices",
    "weight_axis",
    "weight_of",
]
