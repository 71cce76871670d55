"""Convolutions with constant weights: read from a Conv or a ConvTranspose, and written as one again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.formats import number
from mlc.fusion import array_of, constant, is_constant, producer

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array


@dataclass(frozen=True)
class Convolution:
    """A Conv, whose weight is [out, in / groups, ...], or a ConvTranspose, whose weight is [in, out / groups, ...]."""

    node: ir.Node

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The one node."""
        return (self.node,)

    @property
    def weight(self) -> ir.Value:
        """The kernels."""
        weight = self.node.inputs[1]
        assert weight is not None
        return weight

    @property
    def bias(self) -> ir.Value | None:
        """What is added to each output channel, or None."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    @property
    def groups(self) -> int:
        """The number of parts into which the channels fall."""
        return int(number(self.node, "group", 1))

    def reason_to_stay(self) -> str | None:
        """Return why it cannot be written anew with another weight, or None."""
        if not is_constant(self.weight):
            return "the weight is not constant"
        return None if self.bias is None or is_constant(self.bias) else "the convolution's bias is not constant"

    def kernels(self) -> Array:
        """Return the weight, float64 [groups, out / groups, in / groups, ...]."""
        weight = array_of(self.weight)
        return self._turned(weight.astype(np.float64).reshape(self.groups, -1, *weight.shape[1:]))

    def offset(self) -> Array:
        """Return the bias, float64 [out]."""
        if self.bias is not None:
            return array_of(self.bias).astype(np.float64)
        shape = array_of(self.weight).shape
        return np.zeros(shape[0] if self.node.op_type == "Conv" else shape[1] * self.groups)

    def written(self, op: Any, x: ir.Value | None, kernels: Array, offset: Array | None) -> ir.Value:
        """Write it on an input, with a weight as ``kernels`` returns it, and with an offset [out] or none."""
        old = array_of(self.weight)
        inputs = [x, constant(op, self._turned(kernels).reshape(old.shape).astype(old.dtype))]
        if offset is not None:
            inputs.append(constant(op, offset.astype(old.dtype)))
        attributes = {name: attribute.value for name, attribute in self.node.attributes.items()}
        made: ir.Value = getattr(op, self.node.op_type)(*inputs, **attributes)
        return made

    def scaled(self, op: Any, scale: Array, shift: Array) -> ir.Value:
        """Write it so that its result comes multiplied and shifted, both [out]."""
        kernels = self.kernels()
        channels = (*kernels.shape[:2], *(1,) * (kernels.ndim - 2))
        return self.written(op, self.node.inputs[0], kernels * scale.reshape(channels), self.offset() * scale + shift)

    def _turned(self, grouped: Array) -> Array:
        """Exchange the axes of a group's inputs and outputs where the operator keeps them the other way."""
        return grouped.swapaxes(1, 2) if self.node.op_type == "ConvTranspose" else grouped


def convolution_of(value: ir.Value | None) -> Convolution | None:
    """Return the convolution that gives a value, or None."""
    node = producer(value, "Conv") or producer(value, "ConvTranspose")
    return None if node is None else Convolution(node)
