"""Divide instead of multiplying with a reciprocal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlc.fusion import Fusion, is_constant
from mlc.graph_pass import Exactness


@dataclass(frozen=True)
class ReciprocalToDiv(Fusion):
    """``x * (1 / y)`` becomes ``x / y``: one operator less, and one rounding.

    Refuses a constant y, which constant folding serves better, and a reciprocal that is used elsewhere or is an output.
    """

    name: ClassVar[str] = "reciprocal-to-div"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5

    def pattern(self, op, x, y):
        return op.Mul(x, op.Reciprocal(y))

    def check(self, x, y) -> str | None:
        return "the divisor is constant, so folding does better" if is_constant(y) else None

    def rewrite(self, op, x, y):
        return op.Div(x, y)
