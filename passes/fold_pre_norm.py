"""Fold a scale and a shift for each channel into the convolution behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.fusion import Match, Search, array_of, is_constant, is_standard
from mlc.graph_pass import Exactness
from passes import _batch_norm
from passes._convolution import Convolution

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array


@dataclass(frozen=True)
class FoldPreNorm(Search):
    """``conv(x * s + t, w) + b`` becomes ``conv(x, w * s) + (b + sum(w * t))``, one operator less.

    s and t run along the input channels: those of a batch normalization in inference, or the constant of a Mul, Div,
    Add or Sub. Refuses a shift other than 0 where the convolution pads, since its zeros come after the shift; where
    the value between is used elsewhere or is an output of the graph; where the weight is used elsewhere, so that it
    would be kept twice; where a weight or statistic is not constant, has another dtype or another length, and where
    the number of channels of x is not known, which may be broadcast.
    """

    name: ClassVar[str] = "fold-pre-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    ends: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def look(self, node: ir.Node) -> Match | None:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        index = _index_of_input(before) if before is not None and is_standard(before) else None
        if before is None or index is None:
            return None
        return Match([before, node], node.outputs[:1], {"before": before, "index": index, "layer": Convolution(node)})

    def check(self, before, index, layer) -> str | None:
        reason: str | None = layer.reason_to_stay()
        if reason is None and len(layer.weight.uses()) > 1:
            reason = "the weight is used elsewhere"
        if reason is not None:
            return reason
        channels = array_of(layer.weight).shape[1] * layer.groups
        if before.op_type == "BatchNormalization":
            reason = _batch_norm.reason_to_stay(before, channels, layer.weight.const_value.dtype)
        else:
            reason = _reason_of_constant(before, index, layer, channels)
        if reason is None and _pads(layer.node) and _affine(before, index, channels)[1].any():
            reason = "the convolution pads with zeros, which are not shifted"
        return reason

    def rewrite(self, op, before, index, layer):
        kernels = layer.kernels()
        groups, _, channels, *size = kernels.shape
        scale, shift = (each.reshape(groups, channels, 1) for each in _affine(before, index, groups * channels))
        added = kernels.reshape(*kernels.shape[:3], -1).sum(-1) @ shift
        offset = layer.offset() + added.reshape(-1) if layer.bias is not None or shift.any() else None
        return layer.written(
            op, before.inputs[index], kernels * scale.reshape(groups, 1, channels, *(1 for _ in size)), offset
        )


def _index_of_input(node: ir.Node) -> int | None:
    """Return which input a node scales or shifts, or None where it does something else."""
    if node.op_type == "BatchNormalization":
        return 0
    if node.op_type in ("Div", "Sub"):
        return 0 if is_constant(node.inputs[1]) else None
    if node.op_type in ("Mul", "Add"):
        return next((1 - index for index in (1, 0) if is_constant(node.inputs[index])), None)
    return None


def _affine(node: ir.Node, index: int, channels: int) -> tuple[Array, Array]:
    """Return s and t of ``x * s + t``, float64 [channels]."""
    if node.op_type == "BatchNormalization":
        return _batch_norm.scale_and_shift(node)
    other = node.inputs[1 - index]
    assert other is not None
    number = np.broadcast_to(array_of(other).astype(np.float64).reshape(-1), (channels,))
    if node.op_type in ("Mul", "Div"):
        return number if node.op_type == "Mul" else 1 / number, np.zeros(channels)
    return np.ones(channels), number if node.op_type == "Add" else -number


def _reason_of_constant(node: ir.Node, index: int, layer: Convolution, channels: int) -> str | None:
    """Return why a constant may do more than scale or shift each channel, or None."""
    x, other = node.inputs[index], node.inputs[1 - index]
    assert x is not None
    assert other is not None
    array, rank = array_of(other), len(array_of(layer.weight).shape)
    if x.shape is None or len(x.shape) != rank or x.shape[1] != channels:
        return "the number of channels of the input is not known"
    shape = (*(1,) * (rank - array.ndim), *array.shape)
    if len(shape) != rank or array.size not in (1, channels) or shape[1] != array.size:
        return f"{other.name} does not run along the channels"
    return "a divisor is zero" if node.op_type == "Div" and not array.all() else None


def _pads(node: ir.Node) -> bool:
    pads, way = node.attributes.get("pads"), node.attributes.get("auto_pad")
    return (pads is not None and any(pads.as_ints())) or (way is not None and way.as_string().startswith("SAME"))
