"""Polynomials and their ratios, by which functions are written for which ONNX has no operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxscript

from mlc.exporting.constants import like

op: Any = onnxscript.opset18


def ratio(coefficients: tuple[Sequence[float], Sequence[float]], x: Any) -> Any:
    """Return one polynomial over another."""
    above, below = coefficients
    return op.Div(polynomial(above, x), polynomial(below, x))


def polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """Return the sum of powers, whose coefficients begin with that of 1, by Horner's rule."""
    *rest, last = coefficients
    total = like(last, x)
    for coefficient in reversed(rest):
        total = op.Add(op.Mul(total, x), like(coefficient, x))
    return total
