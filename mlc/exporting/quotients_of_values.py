"""Quotients of values that are rounded down or towards zero, and what is left over, as torch computes them.

torch.onnx divides integers in float32, and rounds the quotient of floats: 1 // 0.1 is 9, for a tenth in float32 is more
than that. (c10/util/generic_math.h: div_floor_floating, div_floor_integer, div_mod.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript
import torch

op: Any = onnxscript.opset18

WIDE = frozenset({ir.DataType.INT32, ir.DataType.INT64})
"""Integers that onnxruntime divides."""


def of_quotients() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator."""
    aten = torch.ops.aten
    return {
        aten.floor_divide.default: _floor_divide,
        aten.div.Tensor_mode: _rounded,
        aten.remainder.Tensor: _remainder,
    }


def _rounded(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return _floor_divide(x, y)
    if not x.dtype.is_integer():
        quotient = op.Div(x, y)
        return quotient if rounding_mode is None else op.Mul(op.Sign(quotient), op.Floor(op.Abs(quotient)))
    if rounding_mode is None:
        return op.Div(op.Cast(x, to=ir.DataType.FLOAT), op.Cast(y, to=ir.DataType.FLOAT))
    return _narrowed(op.Div(*_wide(x, y, x.dtype)), x.dtype)


def _floor_divide(x: Any, y: Any) -> Any:
    dtype = y.dtype if isinstance(x, int | float) else x.dtype
    if isinstance(x, int | float):
        x = op.Constant(value=ir.tensor(x, dtype=dtype))
    if dtype.is_integer():
        first, second = _wide(x, y, dtype)
        towards_zero = op.Div(first, second)
        left = op.Sub(first, op.Mul(towards_zero, second))
        return _narrowed(op.Sub(towards_zero, op.CastLike(_of_other_signs(left, second), first)), dtype)
    quotient, left = op.Div(x, y), op.Mod(x, y, fmod=1)
    whole = op.Div(op.Sub(x, left), y)
    whole = op.Where(_of_other_signs(left, y), op.Sub(whole, op.CastLike(1.0, whole)), whole)
    return op.Where(op.Equal(y, op.CastLike(0.0, y)), quotient, op.Round(whole))


def _remainder(x: Any, y: Any) -> Any:
    if x.dtype.is_integer():
        return op.Mod(x, y)
    left = op.Mod(x, y, fmod=1)
    return op.Where(_of_other_signs(left, y), op.Add(left, y), left)


def _of_other_signs(left: Any, divisor: Any) -> Any:
    """Return where something is left over, of another sign than the divisor."""
    zero = op.CastLike(0, left)
    return op.And(op.Not(op.Equal(left, zero)), op.Xor(op.Less(left, zero), op.Less(divisor, zero)))


def _wide(x: Any, y: Any, dtype: Any) -> tuple[Any, Any]:
    return (x, y) if dtype in WIDE else (op.Cast(x, to=ir.DataType.INT64), op.Cast(y, to=ir.DataType.INT64))


def _narrowed(wide: Any, dtype: Any) -> Any:
    return wide if dtype in WIDE else op.Cast(wide, to=dtype)
