"""Arithmetic of sizes with fractions, ``ceil(n * 0.07)``, in double precision as Python computes it.

torch.onnx writes it in float32, where ``90 * 0.7`` is 63 and no longer a little less. A tensor that reads a fraction
still reads it in float32.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript
import torch

op: Any = onnxscript.opset18

FLOAT, DOUBLE, INT64 = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64


def of_fractions() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operation of Python on sizes that may give a fraction, or takes one."""
    return {
        operator.add: _either("Add"),
        operator.sub: _either("Sub"),
        operator.mul: _either("Mul"),
        operator.pow: _either("Pow"),
        operator.truediv: _quotient,
        operator.mod: _rest,
        torch.sym_float: lambda number: _single(double(number)),
        math.ceil: lambda number: _whole(op.Ceil(double(number))),
        math.floor: lambda number: _whole(op.Floor(double(number))),
        math.trunc: lambda number: _whole(double(number)),
        builtins.round: _rounded,
    }


def double(number: Any) -> Any:
    """Return a size, a fraction or a number of Python in double precision, in which fractions are computed."""
    if isinstance(number, int | float):
        return op.Constant(value=ir.tensor(float(number), dtype=DOUBLE))
    made_by = number.producer()
    narrowed = made_by is not None and made_by.op_type == "Cast" and made_by.attributes["to"].as_int() == FLOAT
    if narrowed and made_by.inputs[0].dtype == DOUBLE:
        return made_by.inputs[0]
    return op.Cast(number, to=DOUBLE)


def _single(number: Any) -> Any:
    number.dtype = DOUBLE
    return op.Cast(number, to=FLOAT)


def _whole(number: Any) -> Any:
    return op.Cast(number, to=INT64)


def _either(name: str) -> Callable[..., Any]:
    """Return the operator of ONNX for two sizes, and in double precision where one of them is a fraction."""

    def computed(left: Any, right: Any) -> Any:
        apply = getattr(op, name)
        if _is_fraction(left) or _is_fraction(right):
            return _single(apply(double(left), double(right)))
        return apply(left, right)

    return computed


def _quotient(left: Any, right: Any) -> Any:
    return _single(op.Div(double(left), double(right)))


def _rest(left: Any, right: Any) -> Any:
    """Return what Python's ``%`` leaves, whose sign is the divisor's."""
    if not (_is_fraction(left) or _is_fraction(right)):
        return op.Mod(left, right)
    divided, divisor = double(left), double(right)
    return _single(op.Sub(divided, op.Mul(op.Floor(op.Div(divided, divisor)), divisor)))


def _rounded(number: Any, digits: Any = None) -> Any:
    if digits is not None:
        raise NotImplementedError(f"round(size, {digits})")
    return _whole(op.Round(double(number)))


def _is_fraction(number: Any) -> bool:
    return isinstance(number, float) or getattr(number, "dtype", None) == FLOAT
