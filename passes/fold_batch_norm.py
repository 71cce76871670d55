"""Fold a batch normalization into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.fusion import Fusion, array_of, constant, is_constant
from mlc.graph_pass import Exactness

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array

DEFAULT_EPSILON = 1e-5
OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1}


@dataclass(frozen=True)
class FoldBatchNorm(Fusion):
    """``(conv(x, w) + b - mean) * s + bias`` becomes ``conv(x, w * s) + (b - mean) * s + bias``, one operator less.

    ``s = scale / sqrt(variance + epsilon)`` runs along the output channels: axis 0 of a Conv's weight, axis 1 within
    each group of a ConvTranspose's. Refuses where the convolution's output is used elsewhere or is an output of the
    graph, where any weight or statistic is not constant, has another dtype or another length, in training mode, where
    further outputs of the normalization are read, and where ``variance + epsilon`` is not positive.
    """

    name: ClassVar[str] = "fold-batch-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4

    def pattern(self, op, x, w, scale, bias, mean, variance):
        from onnxscript.rewriter.pattern import OrValue

        conv = op.Conv(x, w, _allow_other_inputs=True, _outputs=["conv"])
        transposed = op.ConvTranspose(x, w, _allow_other_inputs=True, _outputs=["transposed"])
        return op.BatchNormalization(OrValue([conv, transposed]), scale, bias, mean, variance, _outputs=["y"])

    def check(self, w, scale, bias, mean, variance, y, conv=None, transposed=None, **others) -> str | None:
        normalization, convolution = y.producer(), (conv if conv is not None else transposed).producer()
        if "training_mode" in normalization.attributes and normalization.attributes["training_mode"].as_int():
            return "it is in training mode"
        offset = _bias_of(convolution)
        roles = {"weight": w, "scale": scale, "bias": bias, "mean": mean, "variance": variance}
        roles |= {"convolution's bias": offset} if offset is not None else {}
        for role, value in roles.items():
            if not is_constant(value):
                return f"the {role} is not constant"
        if len({value.const_value.dtype for value in roles.values()}) > 1:
            return "weight and statistics have different dtypes"
        channels = _channels(convolution, w)
        for role, value in roles.items():
            if role != "weight" and tuple(value.const_value.shape.numpy()) != (channels,):
                return f"the {role} does not have one element for each output channel"
        if not (array_of(variance).astype(np.float64) + _epsilon(normalization) > 0).all():
            return "variance + epsilon is not positive"
        return None

    def rewrite(self, op, x, w, scale, bias, mean, variance, y, conv=None, transposed=None):
        convolution = (conv if conv is not None else transposed).producer()
        weight, offset = array_of(w), _bias_of(convolution)
        gamma, beta, center, spread = (array_of(value).astype(np.float64) for value in (scale, bias, mean, variance))
        s = gamma / np.sqrt(spread + _epsilon(y.producer()))
        b = 0.0 if offset is None else array_of(offset).astype(np.float64)
        new_weight = _scaled(convolution, weight, s).astype(weight.dtype)
        new_bias = ((b - center) * s + beta).astype(weight.dtype)
        make = getattr(op, convolution.op_type)
        attributes = {name: attribute.value for name, attribute in convolution.attributes.items()}
        return make(x, constant(op, new_weight), constant(op, new_bias), **attributes)


def _bias_of(convolution: ir.Node) -> ir.Value | None:
    return convolution.inputs[2] if len(convolution.inputs) > 2 else None


def _epsilon(normalization: ir.Node) -> float:
    return normalization.attributes["epsilon"].as_float() if "epsilon" in normalization.attributes else DEFAULT_EPSILON


def _groups(convolution: ir.Node) -> int:
    return convolution.attributes["group"].as_int() if "group" in convolution.attributes else 1


def _channels(convolution: ir.Node, weight: ir.Value) -> int:
    assert weight.const_value is not None
    size = int(weight.const_value.shape.numpy()[OUTPUT_AXIS[convolution.op_type]])
    return size * (_groups(convolution) if convolution.op_type == "ConvTranspose" else 1)


def _scaled(convolution: ir.Node, weight: Array, s: Array) -> Array:
    """Multiply each output channel: [out, in/groups, ...] for a Conv, [in, out/groups, ...] for a ConvTranspose."""
    kernel = (1,) * (weight.ndim - 2)
    wide = weight.astype(np.float64)
    if convolution.op_type == "Conv":
        return wide * s.reshape(-1, 1, *kernel)
    groups = _groups(convolution)
    grouped = wide.reshape(groups, -1, *weight.shape[1:])
    return (grouped * s.reshape(groups, 1, -1, *kernel)).reshape(weight.shape)
