"""Medians, the k-th smallest element, and where elements stand in a sorted row: torch.onnx has no words for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnxscript
import torch

op: Any = onnxscript.opset18

BOOL, INT32, INT64 = 9, 6, 7


def of_order() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    aten = torch.ops.aten
    return {
        aten.median.dim: _median,
        aten.median.default: lambda x: _of_all(_median, x),
        aten.nanmedian.dim: _nanmedian,
        aten.nanmedian.default: lambda x: _of_all(_nanmedian, x),
        aten.kthvalue.default: _kthvalue,
        aten.searchsorted.Tensor: _searchsorted,
        aten.searchsorted.Scalar: lambda row, number, **more: _searchsorted(row, op.CastLike(number, row), **more),
    }


def _median(x: Any, dim: int, keepdim: bool = False) -> Any:
    """Return the lower one of the two in the middle, and its place; NaN, where there is one, and the place of that."""
    middle = op.Div(op.Sub(_size(x, dim), _one(1)), _one(2))
    place = op.Gather(_ascending(x, dim), middle, axis=dim)
    if x.dtype.is_floating_point():
        unknown = op.Cast(op.IsNaN(x), to=INT32)
        some = op.Cast(op.ReduceMax(unknown, _one(dim), keepdims=1), to=BOOL)
        place = op.Where(some, op.ArgMax(unknown, axis=dim, keepdims=1), place)
    return _at(x, place, dim, keepdim)


def _nanmedian(x: Any, dim: int, keepdim: bool = False) -> Any:
    """Return the lower one of the two in the middle of what is no NaN, and its place."""
    if not x.dtype.is_floating_point():
        return _median(x, dim, keepdim)
    known = op.ReduceSum(op.Cast(op.Not(op.IsNaN(x)), to=INT64), _one(dim), keepdims=1)
    middle = op.Max(op.Div(op.Sub(known, _one(1)), _one(2)), _one(0))
    return _at(x, op.GatherElements(_ascending(x, dim), middle, axis=dim), dim, keepdim)


def _kthvalue(x: Any, k: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """Return the k-th smallest, counted from 1, and its place; NaN is larger than all."""
    place = _one(k - 1) if isinstance(k, int) else op.Sub(op.Reshape(k, _one(-1)), _one(1))
    return _at(x, op.Gather(_ascending(x, dim), place, axis=dim), dim, keepdim)


def _searchsorted(  # noqa: PLR0917 - torch's arguments
    sorted_sequence: Any,
    input: Any,  # noqa: A002 - torch's name
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """Return how many elements of a sorted row are less than each value, or no more than it: NaN is behind all."""
    of_rows, floats = len(sorted_sequence.shape) > 1, sorted_sequence.dtype.is_floating_point()
    if sorter is not None:
        sorted_sequence = op.GatherElements(sorted_sequence, sorter, axis=-1)
    rows = op.Unsqueeze(sorted_sequence, _one(-2)) if of_rows else sorted_sequence
    behind = op.Less if right or side == "right" else op.LessOrEqual
    values = op.Unsqueeze(input, _one(-1))
    rows = op.CastLike(rows, values)
    before = op.Not(behind(values, rows))
    if floats:
        before = op.And(before, op.Or(op.Not(op.IsNaN(rows)), op.IsNaN(values)))
    counted = op.ReduceSum(op.Cast(before, to=INT64), _one(-1), keepdims=0)
    return op.Cast(counted, to=INT32) if out_int32 else counted


def _of_all(statistic: Callable[..., tuple[Any, Any]], x: Any) -> Any:
    row = op.Reshape(x, _one(-1))
    row.dtype = x.dtype  # which nobody has inferred yet
    return op.Squeeze(statistic(row, 0, keepdim=True)[0], _one(0))


def _ascending(x: Any, dim: int) -> Any:
    """Return the places of elements from the smallest to the largest, then those of NaN; equal ones stay in order."""
    count = _size(x, dim)
    if not x.dtype.is_floating_point():
        return op.TopK(x, count, axis=dim, largest=0, sorted=1)[1]
    known = op.Where(op.IsNaN(x), op.CastLike(math.inf, x), x)
    places = op.TopK(known, count, axis=dim, largest=0, sorted=1)[1]
    unknown = op.GatherElements(op.Cast(op.IsNaN(x), to=INT64), places, axis=dim)
    return op.GatherElements(places, op.TopK(unknown, count, axis=dim, largest=0, sorted=1)[1], axis=dim)


def _at(x: Any, place: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    found = op.GatherElements(x, place, axis=dim)
    return (found, place) if keepdim else (op.Squeeze(found, _one(dim)), op.Squeeze(place, _one(dim)))


def _size(x: Any, dim: int) -> Any:
    return op.Shape(x, start=dim, end=dim + 1 if dim != -1 else None)


def _one(number: int) -> Any:
    return op.Constant(value_ints=[number])
