"""Operators for which torch.onnx has no function, written with those of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxscript
import torch

from mlc.exporting.fractions import of_fractions
from mlc.exporting.resizing import of_resizing

op: Any = onnxscript.opset18


def translations() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them; those of transformers where it is imported."""
    table: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.sort.stable: _stable_sort,
        torch.ops.aten.log_sigmoid.default: _log_sigmoid,
        torch.ops.aten.logaddexp.default: _logaddexp,
        torch.ops.aten.masked_select.default: _masked_select,
        **of_fractions(),
        **of_resizing(),
    }
    if hasattr(torch.ops.transformers, "grouped_mm_fallback"):
        table[torch.ops.transformers.grouped_mm_fallback.default] = _grouped_product
    return table


def _grouped_product(rows: Any, weights: Any, offs: Any) -> Any:
    """Return the product of each group of rows, [rows, in], with its own weight of [groups, in, out].

    ``offs`` holds the row behind each group. How many groups there are is no size that varies; how many rows a group
    has is known when the model runs.
    """
    groups = weights.shape[0]
    axis = op.Constant(value_ints=[0])
    ends = op.Cast(offs, to=7)  # int64
    parts = []
    start = op.Constant(value_ints=[0])
    for group in range(groups):
        place = op.Constant(value_ints=[group])
        end = op.Gather(ends, place)
        parts.append(op.MatMul(op.Slice(rows, start, end, axis), op.Squeeze(op.Gather(weights, place), axis)))
        start = end
    return op.Concat(*parts, axis=0) if groups > 1 else parts[0]


def _log_sigmoid(x: Any) -> Any:
    """Return ``-log(1 + exp(-x))``: the logarithm of a sigmoid that is 0 in float32 would be infinite."""
    return op.Neg(op.Softplus(op.Neg(x)))


def _logaddexp(x: Any, y: Any) -> Any:
    """Return ``log(exp(x) + exp(y))`` by the larger of both, whose power may be infinite; equal infinities stay."""
    larger, apart = op.Max(x, y), op.Abs(op.Sub(x, y))
    smaller = op.Softplus(op.Neg(op.Where(op.IsNaN(apart), op.CastLike(0.0, apart), apart)))
    return op.Add(larger, smaller)


def _masked_select(x: Any, mask: Any) -> Any:
    """Return the elements of a tensor where a mask is true, [elements], each broadcast to the other's shape."""
    row = op.Constant(value_ints=[-1])
    chosen = op.Reshape(op.Expand(mask, op.Shape(x)), row)
    return op.Compress(op.Reshape(op.Expand(x, op.Shape(mask)), row), chosen)


def _stable_sort(x: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
    """Return a tensor sorted along an axis, and the places: TopK leaves what is equal in its order."""
    size = op.Shape(x, start=dim, end=dim + 1 if dim != -1 else None)
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)
