"""Constants in the functions that torch.onnx takes for operators."""

from __future__ import annotations

from typing import Any

import onnxscript

op: Any = onnxscript.opset18


def ints(*numbers: int) -> Any:
    """Return whole numbers, int64 [numbers]."""
    return op.Constant(value_ints=list(numbers))


def like(number: float, x: Any) -> Any:
    """Return a number in the dtype of a tensor."""
    return op.CastLike(number, x)
