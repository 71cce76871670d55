"""The logarithm of the gamma function and its derivatives, for which ONNX has no operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxscript
import torch

from mlc.exporting.constants import like
from mlc.exporting.polynomials import polynomial, ratio

op: Any = onnxscript.opset18

NEAR_ONE = (
    (7.225813979700288e3, 2.637748787624195e4, 3.848496228443793e4, 2.855724635671635e4, 1.131967205903381e4,
     2.290838373831346e3, 2.018112620856775e2, 4.945235359296727),
    (8.785536302431013e3, 3.6351275915019405e4, 6.161122180066002e4, 5.499310206226157e4, 2.763987074403341e4,
     7.738757056935399e3, 1.1133323938571993e3, 6.748212550303777e1, 1.0),
)  # fmt: skip
"""A rational function of x - 1, numerator and denominator from the constant on, for x from 0.5 to 1.5."""

NEAR_TWO = (
    (3.0741090548505396e6, 5.106661678927352e6, 3.3381529679870297e6, 1.0882047694688288e6, 1.8479329044456324e5,
     1.5506938649783649e4, 5.424138599891071e2, 4.974607845568932),
    (9.533095591844354e6, 1.7827365303532742e7, 1.3467014543111017e7, 5.267964117437947e6, 1.1367058213219696e6,
     1.3319038279660742e5, 7.765049321445006e3, 1.8303283993705926e2, 1.0),
)  # fmt: skip
"""Likewise of x - 2, for x from 1.5 to 4."""

STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""Of 1 / x, 1 / x ** 3 and so on: from x = 4 on right to 1e-10."""

ENDS = 1.5, 4.0
"""Where the ranges of these end."""

DERIVED = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
"""Of 1 / x ** 2, 1 / x ** 4 and so on: from x = 6 on right to 1e-12."""

STEPS = 6

BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66)
"""Those of even index, from 2 on."""


def of_gammas() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    aten = torch.ops.aten
    return {aten.lgamma.default: _lgamma, aten.digamma.default: _digamma, aten.polygamma.default: _polygamma}


def _lgamma(x: Any) -> Any:
    """Return ``log(abs(gamma(x)))``, infinite at 0, -1, -2 and so on, and at both infinities.

    Cody and Hillstrom, Chebyshev approximations for the natural logarithm of the gamma function (1967), as in ALGAMA of
    SPECFUN; from 4 on Stirling's series, and below 0 by reflection (Abramowitz and Stegun 6.1.41 and 6.1.17).
    """
    size = op.Abs(x)
    positive = _lgamma_of_positive(size)
    apart = op.Sub(size, op.Round(size))
    sine = op.Abs(op.Sin(op.Mul(apart, like(math.pi, x))))
    reflected = op.Sub(op.Sub(op.Sub(like(math.log(math.pi), x), op.Log(size)), op.Log(sine)), positive)
    bounded = op.Less(size, like(math.inf, x))
    return op.Where(op.And(op.Less(x, like(0.0, x)), bounded), reflected, positive)


def _lgamma_of_positive(x: Any) -> Any:
    """Return it by its zeros at 1 and 2, near which it keeps its digits."""
    half, (low, high) = like(0.5, x), ENDS
    below = op.Less(x, half)
    one = op.Where(below, x, op.Sub(x, like(1.0, x)))
    near_one = op.Mul(one, op.Add(like(-0.57721566490153286, x), op.Mul(one, ratio(NEAR_ONE, one))))
    near_one = op.Where(below, op.Sub(near_one, op.Log(x)), near_one)
    two = op.Sub(x, like(2.0, x))
    near_two = op.Mul(two, op.Add(like(0.42278433509846714, x), op.Mul(two, ratio(NEAR_TWO, two))))
    inverse = op.Reciprocal(x)
    series = op.Mul(inverse, polynomial(STIRLING, op.Mul(inverse, inverse)))
    leading = op.Mul(op.Sub(x, half), op.Sub(op.Log(x), like(1.0, x)))
    far = op.Add(leading, op.Add(like(0.5 * math.log(2 * math.pi) - 0.5, x), series))
    near = op.Where(op.Less(x, like(low, x)), near_one, near_two)
    return op.Where(op.Less(x, like(high, x)), near, far)


def _digamma(x: Any) -> Any:
    """Return the derivative of ``log(gamma(x))``: at 0 infinite, at -1, -2 and so on NaN.

    By recurrence to 6 and beyond, and the series from there on; below 0 by reflection (Abramowitz and Stegun 6.3.5,
    6.3.18 and 6.3.7).
    """
    zero, one = like(0.0, x), like(1.0, x)
    negative = op.Less(x, zero)
    start = op.Where(negative, op.Sub(one, x), x)
    below = op.Less(start, like(float(STEPS), x))
    steps = (op.Reciprocal(op.Add(start, like(float(step), x)) if step else start) for step in range(STEPS))
    passed = next(steps)
    for step in steps:
        passed = op.Add(passed, step)
    far = op.Where(below, op.Add(start, like(float(STEPS), x)), start)
    inverse = op.Reciprocal(far)
    square = op.Mul(inverse, inverse)
    series = op.Add(op.Mul(inverse, like(0.5, x)), op.Mul(square, polynomial(DERIVED, square)))
    found = op.Sub(op.Sub(op.Log(far), series), op.Where(below, passed, zero))
    apart = op.Sub(x, op.Round(x))
    angle = op.Mul(apart, like(math.pi, x))
    turned = op.Div(op.Mul(op.Cos(angle), like(math.pi, x)), op.Sin(angle))
    turned = op.Where(op.Equal(apart, zero), like(math.nan, x), turned)
    return op.Where(negative, op.Sub(found, turned), found)


def _polygamma(n: int, x: Any) -> Any:
    """Return the derivative of order n of digamma: by recurrence, series and reflection (Abramowitz and Stegun 6.4).

    The sine of the first is taken where torch takes it, which at -1, -2 and so on is next to 0, and not infinite. The
    cosine of the others is a sine too, which is 0 at -0.5, -1.5 and so on: its factors are large.
    """
    if n == 0:
        return _digamma(x)
    one, half = like(1.0, x), like(0.5, x)
    mirrored = op.Less(x, half) if n == 1 else op.Less(x, like(0.0, x))
    positive = _polygamma_of_positive(n, op.Abs(op.Where(mirrored, op.Sub(one, x), x)))  # of -0 too
    apart = x if n == 1 else op.Sub(x, op.Round(x))
    angle = op.Mul(apart, like(math.pi, x))
    cosine = op.Cos(angle) if n == 1 else op.Sin(op.Mul(op.Sub(half, op.Abs(apart)), like(math.pi, x)))
    cotangent = op.Div(cosine, op.Sin(angle))
    turned = op.Mul(polynomial(_cotangent_derived(n), cotangent), like(-(math.pi ** (n + 1)), x))
    return op.Where(mirrored, op.Add(turned, op.Neg(positive) if n % 2 else positive), positive)


def _polygamma_of_positive(n: int, x: Any) -> Any:
    """Return it by recurrence from x to x + 10, and the series from there on (6.4.6 and 6.4.11)."""
    steps, far = 10, op.Add(x, like(10.0, x))
    inverse = op.Reciprocal(far)
    factors = [b * math.factorial(2 * j + n - 1) / math.factorial(2 * j) for j, b in enumerate(BERNOULLI, start=1)]
    series = polynomial([math.factorial(n - 1), math.factorial(n) / 2, factors[0]], inverse)
    square = op.Mul(inverse, inverse)
    series = op.Add(series, op.Mul(op.Mul(square, square), polynomial(factors[1:], square)))
    total = op.Mul(series, op.Pow(inverse, like(float(n), x)))
    for step in reversed(range(steps)):
        power = op.Pow(op.Add(x, like(float(step), x)), like(-float(n + 1), x))
        total = op.Add(total, op.Mul(power, like(float(math.factorial(n)), x)))
    return total if n % 2 else op.Neg(total)


def _cotangent_derived(n: int) -> list[float]:
    """Return the polynomial in ``cot(x)`` that its derivative of order n is; the first is ``-1 - cot(x)**2``."""
    found = np.polynomial.Polynomial([0.0, 1.0])
    for _ in range(n):
        found = found.deriv() * np.polynomial.Polynomial([-1.0, 0.0, -1.0])
    return [float(each) for each in found.coef]
