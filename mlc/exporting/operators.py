"""Operators for which torch.onnx has no function, or a wrong one, written with those of ONNX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnxscript
import torch

from mlc.exporting.bessel import of_bessel
from mlc.exporting.bits import of_bits
from mlc.exporting.constants import ints
from mlc.exporting.fractions import of_fractions
from mlc.exporting.gammas import of_gammas
from mlc.exporting.linear_algebra import of_matrices
from mlc.exporting.losses import of_losses
from mlc.exporting.order_statistics import of_order
from mlc.exporting.polynomials import polynomial
from mlc.exporting.quantiles import of_quantiles
from mlc.exporting.quotients_of_values import of_quotients
from mlc.exporting.recurrences.packed import of_packed
from mlc.exporting.resizing import of_resizing

op: Any = onnxscript.opset18

ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277,
)  # fmt: skip
"""Of a Chebyshev fit of the complementary error function, right to 1.2e-7 everywhere."""


def translations() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them; those of transformers where it is imported."""
    table: dict[Any, Callable[..., Any]] = {
        torch.ops.aten.sort.stable: _stable_sort,
        torch.ops.aten.log_sigmoid.default: _log_sigmoid,
        torch.ops.aten.logaddexp.default: _logaddexp,
        torch.ops.aten.masked_select.default: _masked_select,
        torch.ops.aten.copy.default: _copy,
        torch.ops.aten.bincount.default: _bincount,
        torch.ops.aten._neg_view.default: _negated,  # noqa: SLF001
        torch.ops.aten.logaddexp2.default: _logaddexp2,
        torch.ops.aten.atan2.default: _atan2,
        torch.ops.aten.clamp.default: _clamp,
        torch.ops.aten.clamp_min.default: _clamp_min,
        torch.ops.aten.clamp_max.default: _clamp_max,
        torch.ops.prims.hypot.default: _hypot,
        torch.ops.prims.fmax.default: lambda x, y: _but_nan(x, y, op.Max(x, y)),
        torch.ops.prims.fmin.default: lambda x, y: _but_nan(x, y, op.Min(x, y)),
        **dict.fromkeys((torch.ops.prims.signbit.default, torch.ops.aten.signbit.default), _is_negative),
        torch.ops.aten.log1p.default: _log1p,
        torch.ops.aten.expm1.default: _expm1,
        torch.ops.aten.special_erfcx.default: _erfcx,
        **of_bessel(),
        **of_bits(),
        **of_fractions(),
        **of_gammas(),
        **of_losses(),
        **of_matrices(),
        **of_order(),
        **of_packed(),
        **of_quantiles(),
        **of_quotients(),
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


def _erfcx(x: Any) -> Any:
    """Return ``exp(x * x) * erfc(x)``, of which either factor leaves float32: Numerical Recipes (1992), section 6.2."""
    t = op.Reciprocal(op.Add(op.CastLike(1.0, x), op.Mul(op.Abs(x), op.CastLike(0.5, x))))
    right = op.Mul(t, op.Exp(polynomial(ERFC, t)))
    left = op.Sub(op.Mul(op.Exp(op.Mul(x, x)), op.CastLike(2.0, x)), right)
    return op.Where(op.Less(x, op.CastLike(0.0, x)), left, right)


def _log_sigmoid(x: Any) -> Any:
    """Return ``-log(1 + exp(-x))``: the logarithm of a sigmoid that is 0 in float32 would be infinite."""
    return op.Neg(op.Softplus(op.Neg(x)))


def _logaddexp(x: Any, y: Any) -> Any:
    """Return ``log(exp(x) + exp(y))`` by the larger of both, whose power may be infinite; equal infinities stay."""
    larger, apart = op.Max(x, y), op.Abs(op.Sub(x, y))
    smaller = op.Softplus(op.Neg(op.Where(op.IsNaN(apart), op.CastLike(0.0, apart), apart)))
    return op.Add(larger, smaller)


def _logaddexp2(x: Any, y: Any) -> Any:
    """Return ``log2(2 ** x + 2 ** y)``, likewise."""
    two = op.CastLike(math.log(2), x)
    return op.Div(_logaddexp(op.Mul(x, two), op.Mul(y, two)), two)


def _clamp(x: Any, min: float | None = None, max: float | None = None) -> Any:  # noqa: A002 - torch's names
    """Return numbers within bounds: where one is not given, that of Clip is the largest number, and infinity is not."""
    if min is not None and max is not None:
        return op.Clip(x, op.CastLike(min, x), op.CastLike(max, x))
    if min is not None:
        return _clamp_min(x, min)
    return op.Identity(x) if max is None else _clamp_max(x, max)


def _clamp_min(x: Any, min: float | None = None) -> Any:  # noqa: A002 - torch's name
    if x.dtype.is_integer():
        return op.Clip(x, op.CastLike(min, x), None)
    return op.Relu(x) if min == 0 else op.Max(x, op.CastLike(min, x))


def _clamp_max(x: Any, max: float | None = None) -> Any:  # noqa: A002 - torch's name
    return op.Clip(x, None, op.CastLike(max, x)) if x.dtype.is_integer() else op.Min(x, op.CastLike(max, x))


def _atan2(y: Any, x: Any) -> Any:
    """Return the angle of a point to the right, in (-pi, pi]; a zero has the sign that it has."""
    high, wide = op.Abs(y), op.Abs(x)
    angle = op.Atan(_ratio(high, wide))
    angle = op.Where(_is_negative(x), op.Sub(op.CastLike(math.pi, x), angle), angle)
    return op.Where(_is_negative(y), op.Neg(angle), angle)


def _negated(x: Any) -> Any:
    """Return the imaginary part of a conjugate, which torch keeps as one that is still to be negated."""
    return op.Neg(x)


def _is_negative(x: Any) -> Any:
    """Return where a number is less than 0, or -0."""
    zero = op.CastLike(0.0, x)
    if x.dtype is not None and x.dtype.is_integer():
        return op.Less(x, zero)
    return op.Or(op.Less(x, zero), op.Less(op.Div(op.CastLike(1.0, x), x), zero))


def _hypot(x: Any, y: Any) -> Any:
    """Return the length of two sides, by the ratio of the shorter to the longer: squares may be infinite."""
    one, other = op.Abs(x), op.Abs(y)
    longer = op.Max(one, other)
    ratio = _ratio(op.Min(one, other), longer)
    return op.Mul(longer, op.Sqrt(op.Add(op.Mul(ratio, ratio), op.CastLike(1.0, x))))


def _ratio(one: Any, other: Any) -> Any:
    """Return the ratio of two lengths: of infinite ones 1, of two that are 0 nothing."""
    zero = op.CastLike(0.0, one)
    alike = op.Where(op.Equal(one, zero), zero, op.CastLike(1.0, one))
    return op.Where(op.Equal(one, other), alike, op.Div(one, other))


def _but_nan(x: Any, y: Any, found: Any) -> Any:
    """Return what was found of two, and the other one where one is NaN."""
    return op.Where(op.IsNaN(x), y, op.Where(op.IsNaN(y), x, found))


def _log1p(x: Any) -> Any:
    """Return ``log(1 + x)``, of small numbers by what their sum with 1 really is.

    Kahan, as in Goldberg, What every computer scientist should know about floating-point arithmetic (1991), theorem 4.
    """
    one = op.CastLike(1.0, x)
    sum_ = op.Add(one, x)
    exact = op.Div(op.Mul(op.Log(sum_), x), op.Sub(sum_, one))
    near = op.Where(op.Equal(sum_, one), x, exact)
    return op.Where(op.Less(op.Abs(x), op.CastLike(0.5, x)), near, op.Log(sum_))


def _expm1(x: Any) -> Any:
    """Return ``exp(x) - 1``, of small numbers by the logarithm of what their power really is: Kahan, likewise."""
    one = op.CastLike(1.0, x)
    power = op.Exp(x)
    less = op.Sub(power, one)
    exact = op.Div(op.Mul(less, x), op.Log(power))
    near = op.Where(op.Equal(power, one), x, exact)
    return op.Where(op.Less(op.Abs(x), op.CastLike(0.5, x)), near, less)


def _masked_select(x: Any, mask: Any) -> Any:
    """Return the elements of a tensor where a mask is true, [elements], each broadcast to the other's shape."""
    row = op.Constant(value_ints=[-1])
    chosen = op.Reshape(op.Expand(mask, op.Shape(x)), row)
    return op.Compress(op.Reshape(op.Expand(x, op.Shape(mask)), row), chosen)


def _bincount(x: Any, weights: Any = None, minlength: Any = 0) -> Any:
    """Return how often each number is there, or the sum of its weights: torch.onnx takes a length for a constant."""
    places = op.Cast(x, to=7)  # int64
    most = op.ReduceMax(op.Concat(ints(-1), places, axis=0), keepdims=1)
    count = op.Max(op.Add(most, ints(1)), minlength)
    if weights is None:
        weights = op.Expand(ints(1), op.Shape(x))
    elif weights.dtype is not None and weights.dtype.name != "FLOAT":
        weights = op.Cast(weights, to=11)  # double, as torch has it
    zeros = op.Expand(op.CastLike(0, weights), count)
    return op.ScatterElements(zeros, places, weights, axis=0, reduction="add")


def _copy(x: Any, values: Any, non_blocking: bool = False) -> Any:  # noqa: ARG001
    """Return values in the place of others, broadcast to their shape."""
    same = x.shape is not None and values.shape == x.shape
    values = op.CastLike(values, x)
    return values if same else op.Expand(values, op.Shape(x))


def _stable_sort(x: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
    """Return a tensor sorted along an axis, and the places: TopK leaves what is equal in its order."""
    size = op.Shape(x, start=dim, end=dim + 1 if dim != -1 else None)
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)
