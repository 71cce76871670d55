"""A batch normalization in inference: a scale and a shift for each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlc.formats import number
from mlc.fusion import array_of, is_constant

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array

DEFAULT_EPSILON = 1e-5
ROLES = ("scale", "bias", "mean", "variance")


def reason_to_stay(normalization: ir.Node, channels: int, dtype: ir.DataType) -> str | None:
    """Return why a normalization cannot go into a weight of a dtype with so many channels, or None."""
    if number(normalization, "training_mode", 0):
        return "it is in training mode"
    for role, value in zip(ROLES, normalization.inputs[1:], strict=True):
        if value is None or value.const_value is None or not is_constant(value):
            return f"the {role} is not constant"
        if value.const_value.dtype != dtype:
            return "weight and statistics have different dtypes"
        if tuple(value.const_value.shape.numpy()) != (channels,):
            return f"the {role} does not have one element for each channel"
    return None if (_shifted_variance(normalization) > 0).all() else "variance + epsilon is not positive"


def scale_and_shift(normalization: ir.Node) -> tuple[Array, Array]:
    """Return s and t of ``y = x * s + t``, float64 [channels]: ``s = scale / sqrt(variance + epsilon)``."""
    gamma, beta, mean = (_wide(value) for value in normalization.inputs[1:4])
    scale = gamma / np.sqrt(_shifted_variance(normalization))
    return scale, beta - mean * scale


def _shifted_variance(normalization: ir.Node) -> Array:
    return _wide(normalization.inputs[4]) + number(normalization, "epsilon", DEFAULT_EPSILON)


def _wide(value: ir.Value | None) -> Array:
    assert value is not None
    return array_of(value).astype(np.float64)
