"""Quantiles of the normal distribution, and the inverse of the error function, for which ONNX has no operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnxscript
import torch

from mlc.exporting.constants import like
from mlc.exporting.polynomials import ratio

op: Any = onnxscript.opset18

MIDDLE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
"""A rational function, numerator and denominator from the constant on, of 0.425 ** 2 - q ** 2 with q = p - 0.5."""

TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
"""Likewise of sqrt(-log(p)) - 1.6."""

END = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip
"""Likewise of sqrt(-log(p)) - 5, from there on."""


def of_quantiles() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    return {torch.ops.aten.erfinv.default: _erfinv, torch.ops.aten.special_ndtri.default: _ndtri}


def _erfinv(x: Any) -> Any:
    """Return what has ``x`` as its error function: the quantile of ``(1 + x) / 2`` over the root of 2."""
    half = op.Mul(x, like(0.5, x))
    tail = op.Sub(like(0.5, x), op.Abs(half))
    return op.Mul(_quantile(half, tail), like(math.sqrt(0.5), x))


def _ndtri(p: Any) -> Any:
    """Return what a normal variable is below with the probability ``p``."""
    return _quantile(op.Sub(p, like(0.5, p)), op.Min(p, op.Sub(like(1.0, p), p)))


def _quantile(apart: Any, tail: Any) -> Any:
    """Return the quantile of a probability, by how far it is from a half and by what is left to the nearer end.

    At the ends it is infinite, beyond them NaN. Wichura, Algorithm AS 241: the percentage points of the normal
    distribution (1988), PPND16.
    """
    zero = like(0.0, apart)
    middle = op.Mul(apart, ratio(MIDDLE, op.Sub(like(0.180625, apart), op.Mul(apart, apart))))
    root = op.Sqrt(op.Neg(op.Log(tail)))
    near = ratio(TAIL, op.Sub(root, like(1.6, apart)))
    far = ratio(END, op.Sub(root, like(5.0, apart)))
    outer = op.Where(op.LessOrEqual(root, like(5.0, apart)), near, far)
    outer = op.Where(op.Equal(tail, zero), like(math.inf, apart), outer)
    outer = op.Where(op.Less(apart, zero), op.Neg(outer), outer)
    return op.Where(op.LessOrEqual(op.Abs(apart), like(0.425, apart)), middle, outer)
