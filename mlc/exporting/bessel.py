"""Bessel functions, for which ONNX has no operators, by Chebyshev series of what torch computes in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxscript
import torch

from mlc.exporting.constants import like

if TYPE_CHECKING:
    from mlc.types import Array

op: Any = onnxscript.opset18

FAR = 8.0
"""From here on a series in the inverse is taken."""

DEGREE = 24
"""Of the series: right to 1e-10."""


def of_bessel() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    prims, aten = torch.ops.prims, torch.ops.aten
    i0, i1 = (lambda x: _growing(0, x)), (lambda x: _growing(1, x))
    return {
        prims.bessel_i0e.default: lambda x: _modified(0, x),
        prims.bessel_i1e.default: lambda x: _modified(1, x),
        **dict.fromkeys((prims.bessel_i0.default, aten.i0.default, aten.special_modified_bessel_i0.default), i0),
        **dict.fromkeys((prims.bessel_i1.default, aten.special_modified_bessel_i1.default), i1),
        prims.bessel_j0.default: lambda x: _waving(0, x),
        prims.bessel_j1.default: lambda x: _waving(1, x),
    }


def _growing(order: int, x: Any) -> Any:
    return op.Mul(_modified(order, x), op.Exp(op.Abs(x)))


def _modified(order: int, x: Any) -> Any:
    """Return ``exp(-abs(x)) * I(x)`` of order 0 or 1: ``I(x) / x ** order`` is even (Abramowitz and Stegun 9.6.10)."""
    size = op.Abs(x)
    near, far = _modified_series(order)
    close = _series(near, op.Sub(op.Div(size, like(FAR / 2, x)), like(1.0, x)))
    inverse = op.Div(_series(far, op.Sub(op.Div(like(2 * FAR, x), size), like(1.0, x))), op.Sqrt(size))
    if order:
        close, inverse = op.Mul(close, x), op.Mul(inverse, op.Sign(x))
    return op.Where(op.Less(size, like(FAR, x)), close, inverse)


@cache
def _modified_series(order: int) -> tuple[Array, Array]:
    """Return the series in x from 0 to where it is far, over x of order 1, and those of sqrt(x) times it in 1 / x."""
    function = (torch.special.i0e, torch.special.i1e)[order]
    near = _fitted(lambda y: _in_double(function, FAR / 2 * (y + 1)) / (FAR / 2 * (y + 1)) ** order)
    far = _fitted(lambda y: _in_double(function, 2 * FAR / (y + 1)) * np.sqrt(2 * FAR / (y + 1)))
    return near, far


def _waving(order: int, x: Any) -> Any:
    """Return J(x) of order 0 or 1, from far on by modulus and phase (Abramowitz and Stegun 9.2.5)."""
    size = op.Abs(x)
    near, even, odd = _waving_series(order)
    one = like(1.0, x)
    close = _series(near, op.Sub(op.Div(op.Mul(size, size), like(FAR**2 / 2, x)), one))
    inverse = op.Div(like(FAR, x), size)
    place = op.Sub(op.Mul(op.Mul(inverse, inverse), like(2.0, x)), one)
    phase = op.Sub(size, like((order / 2 + 0.25) * math.pi, x))
    wave = op.Sub(
        op.Mul(_series(even, place), op.Cos(phase)), op.Mul(op.Mul(_series(odd, place), inverse), op.Sin(phase))
    )
    distant = op.Mul(wave, op.Sqrt(op.Div(like(2 / math.pi, x), size)))
    if order:
        close, distant = op.Mul(close, x), op.Mul(distant, op.Sign(x))
    return op.Where(op.Less(size, like(FAR, x)), close, distant)


@cache
def _waving_series(order: int) -> tuple[Array, Array, Array]:
    """Return the series in x ** 2 of J over x ** order, and those in (8 / x) ** 2 of its modulus along both phases."""
    special = torch.special
    first, second = ((special.bessel_j0, special.bessel_y0), (special.bessel_j1, special.bessel_y1))[order]

    def parts(y: Array) -> tuple[Array, Array]:
        x = FAR / np.sqrt((y + 1) / 2)
        phase, root = x - (order / 2 + 0.25) * math.pi, np.sqrt(math.pi * x / 2)
        one, other = _in_double(first, x) * root, _in_double(second, x) * root
        cosine, sine = np.cos(phase), np.sin(phase)
        return one * cosine + other * sine, (other * cosine - one * sine) * x / FAR

    def near(y: Array) -> Array:
        x = FAR * np.sqrt((y + 1) / 2)
        return _in_double(first, x) / x**order

    return _fitted(near), _fitted(lambda y: parts(y)[0]), _fitted(lambda y: parts(y)[1])


def _in_double(function: Callable[..., torch.Tensor], x: Array) -> Array:
    return function(torch.from_numpy(x)).numpy()


def _fitted(function: Callable[[Any], Any]) -> Array:
    """Return the coefficients of a Chebyshev series from -1 to 1, without those that are nothing."""
    coefficients = np.polynomial.chebyshev.chebinterpolate(function, DEGREE)
    return np.trim_zeros(np.where(abs(coefficients) > 1e-11 * abs(coefficients).max(), coefficients, 0), "b")


def _series(coefficients: Array, y: Any) -> Any:
    """Return a Chebyshev series at y, by Clenshaw's recurrence."""
    twice, zero = op.Mul(y, like(2.0, y)), like(0.0, y)
    last, before = zero, zero
    for coefficient in coefficients[:0:-1]:
        last, before = op.Add(op.Sub(op.Mul(twice, last), before), like(float(coefficient), y)), last
    return op.Add(op.Sub(op.Mul(y, last), before), like(float(coefficients[0]), y))
