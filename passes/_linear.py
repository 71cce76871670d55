"""Linear layers with constant weights: read from a Gemm or a MatMul, and written as one again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.formats import number
from mlc.fusion import array_of, constant, is_constant, producer

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array

MATRIX = 2


@dataclass(frozen=True)
class Linear:
    """``x @ weight + bias`` as a Gemm, or a MatMul with or without an Add, computes it; the product is first in nodes.

    A Gemm multiplies with its alpha and beta, and may read x and the weight transposed.
    """

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    nodes: tuple[ir.Node, ...]

    @property
    def transposes_input(self) -> bool:
        """Whether it computes ``x.T @ weight``."""
        return bool(number(self.nodes[0], "transA", 0))

    @property
    def transposes_weight(self) -> bool:
        """Whether the weight is kept as [columns, rows]."""
        return bool(number(self.nodes[0], "transB", 0))

    @property
    def rows(self) -> int:
        """The number of rows of a constant matrix."""
        return int(array_of(self.weight).shape[1 if self.transposes_weight else 0])

    @property
    def columns(self) -> int:
        """The number of columns of a constant matrix."""
        return int(array_of(self.weight).shape[0 if self.transposes_weight else 1])

    def reason_to_stay(self) -> str | None:
        """Return why it cannot be written anew with another weight, or None."""
        tensor = self.weight.const_value
        if tensor is None or not is_constant(self.weight):
            return "the weight is not constant"
        if len(tensor.shape) != MATRIX or not tensor.dtype.is_floating_point():
            return "the weight is not a matrix of floats"
        if self.bias is None:
            return None
        if not is_constant(self.bias):
            return "the bias is not constant"
        along = array_of(self.bias).shape in ((), (1,), (self.columns,), (1, 1), (1, self.columns))
        return None if along else "the bias does not run along the last axis"

    def matrix(self) -> Array:
        """Return what x is multiplied with, float64 [rows, columns]."""
        wide = array_of(self.weight).astype(np.float64) * number(self.nodes[0], "alpha", 1)
        return wide.T if self.transposes_weight else wide

    def offset(self) -> Array:
        """Return what is added, float64 [columns]."""
        if self.bias is None:
            return np.zeros(self.columns)
        wide = array_of(self.bias).astype(np.float64) * number(self.nodes[0], "beta", 1)
        return np.broadcast_to(wide.reshape(-1), (self.columns,))

    def written(self, op: Any, matrix: Array, offset: Array | None) -> ir.Value:
        """Write it with a matrix [rows, columns], and with an offset [columns] or none."""
        dtype = array_of(self.weight).dtype
        operands = [self.x, constant(op, (matrix.T if self.transposes_weight else matrix).astype(dtype))]
        addends = [] if offset is None else [constant(op, offset.astype(dtype))]
        made: ir.Value
        if self.nodes[0].op_type == "Gemm":
            turned = {"transA": int(self.transposes_input), "transB": int(self.transposes_weight)}
            made = op.Gemm(*operands, *addends, **turned)
            return made
        made = op.MatMul(*operands)
        return op.Add(made, *addends) if addends else made

    def scaled(self, op: Any, scale: Array, shift: Array) -> ir.Value:
        """Write it so that its result comes multiplied and shifted, both [columns]."""
        return self.written(op, self.matrix() * scale, self.offset() * scale + shift)


def linear_of(value: ir.Value | None) -> Linear | None:
    """Return the linear layer that gives a value, or None. An Add belongs to it where it adds a constant vector."""
    gemm, total = producer(value, "Gemm"), producer(value, "Add")
    if gemm is not None:
        x, weight, bias = (*gemm.inputs, None)[:3]
        return Linear(x, weight, bias, (gemm,)) if x is not None and weight is not None else None
    if total is None:
        return _product(value)
    for operand, bias in (total.inputs, total.inputs[::-1]):
        product = _product(operand)
        if product is not None and _runs_along_last(bias, product.weight):
            return Linear(product.x, product.weight, bias, (*product.nodes, total))
    return None


def _product(value: ir.Value | None) -> Linear | None:
    node = producer(value, "MatMul")
    if node is None:
        return None
    x, weight = node.inputs
    return Linear(x, weight, None, (node,)) if x is not None and weight is not None else None


def _runs_along_last(bias: ir.Value | None, weight: ir.Value) -> bool:
    """Whether a value is a constant with one element, or one for each column of the weight, and no further axes."""
    if bias is None or not is_constant(bias) or weight.shape is None or len(weight.shape) != MATRIX:
        return False
    return array_of(bias).shape in ((), (1,), (weight.shape[1],))
