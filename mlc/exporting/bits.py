"""Shifted bits of integers of any width: torch.onnx takes unsigned ones for signed, and has no words for ``a >> b``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import onnxscript
import torch

op: Any = onnxscript.opset18

INT64, UINT64 = ir.DataType.INT64, ir.DataType.UINT64


def of_bits() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    aten = torch.ops.aten
    left, right = aten.bitwise_left_shift, aten.bitwise_right_shift
    to_the_left = (left.Tensor, left.Tensor_Scalar, aten.__lshift__.Tensor, aten.__lshift__.Scalar)
    to_the_right = (right.Tensor, right.Tensor_Scalar, aten.__rshift__.Tensor, aten.__rshift__.Scalar)
    return {**dict.fromkeys(to_the_left, _left), **dict.fromkeys(to_the_right, _right)}


def _left(x: Any, places: Any) -> Any:
    """Return ``x << places``; bits that do not fit are lost."""
    return _narrow(_shifted(op.Cast(x, to=INT64), places, "LEFT"), x, places)


def _right(x: Any, places: Any) -> Any:
    """Return ``x >> places``, which is rounded down: of a negative number ``-1 - ((-1 - x) >> places)``."""
    wide, minus_one = op.Cast(x, to=INT64), _number(-1, INT64)
    negative = op.Less(wide, _number(0, INT64))
    shifted = _shifted(op.Where(negative, op.Sub(minus_one, wide), wide), places, "RIGHT")
    return _narrow(op.Where(negative, op.Sub(minus_one, shifted), shifted), x, places)


def _shifted(wide: Any, places: Any, direction: str) -> Any:
    count = _number(places, UINT64) if isinstance(places, int) else op.Cast(places, to=UINT64)
    return op.Cast(op.BitShift(op.Cast(wide, to=UINT64), count, direction=direction), to=INT64)


def _narrow(wide: Any, x: Any, places: Any) -> Any:
    dtype = x.dtype if isinstance(places, int) else _joint(x, places)
    return wide if dtype == INT64 else op.Cast(wide, to=dtype)


def _joint(x: Any, places: Any) -> ir.DataType:
    """Return the dtype of both: a single number takes that of a tensor, and tensors the one that holds both."""
    samples = (
        torch.zeros([1] * bool(len(value.shape)), dtype=getattr(torch, value.dtype.name.lower()))
        for value in (x, places)
    )
    return ir.DataType[str(torch.result_type(*samples)).removeprefix("torch.").upper()]


def _number(number: int, dtype: ir.DataType) -> Any:
    return op.Constant(value=ir.tensor(number, dtype=dtype))
