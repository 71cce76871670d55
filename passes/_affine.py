"""A scale and a shift for each channel: a batch normalization in inference, or a Mul, Div, Add or Sub of a constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlc.fusion import array_of, is_constant
from passes import _batch_norm

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array


TOO_SMALL = "a divisor is zero, or so small that its inverse is not finite"


def index_of_input(node: ir.Node) -> int | None:
    """Return which input a node scales or shifts, or None where it does something else."""
    if node.op_type == "BatchNormalization":
        return 0
    if node.op_type in ("Div", "Sub"):
        return 0 if is_constant(node.inputs[1]) else None
    if node.op_type in ("Mul", "Add"):
        return next((1 - index for index in (1, 0) if is_constant(node.inputs[index])), None)
    return None


def scale_and_shift(node: ir.Node, index: int, channels: int) -> tuple[Array, Array]:
    """Return s and t of ``x * s + t``, float64 [channels], where x is the input at an index."""
    if node.op_type == "BatchNormalization":
        return _batch_norm.scale_and_shift(node)
    other = node.inputs[1 - index]
    assert other is not None
    number = np.broadcast_to(array_of(other).astype(np.float64).reshape(-1), (channels,))
    if node.op_type in ("Mul", "Div"):
        return number if node.op_type == "Mul" else 1 / number, np.zeros(channels)
    return np.ones(channels), number if node.op_type == "Add" else -number


def reason_to_stay(node: ir.Node, index: int, weight: ir.Value, channels: int) -> str | None:
    """Return why a node may do more than scale or shift each channel beside the weight of a convolution, or None."""
    assert weight.const_value is not None
    if node.op_type == "BatchNormalization":
        return _batch_norm.reason_to_stay(node, channels, weight.const_value.dtype)
    other = node.inputs[1 - index]
    assert other is not None
    array, rank = array_of(other), len(weight.const_value.shape)
    shape = (*(1,) * (rank - array.ndim), *array.shape)
    if len(shape) != rank or array.size not in (1, channels) or shape[1] != array.size:
        return f"{other.name} does not run along the channels"
    return TOO_SMALL if node.op_type == "Div" and not has_inverse(array) else None


def has_inverse(divisor: Array) -> bool:
    """Whether multiplying with the inverse of a divisor can stand for dividing by it, in its dtype."""
    with np.errstate(divide="ignore", over="ignore"):
        return bool(np.isfinite(np.reciprocal(divisor)).all())
