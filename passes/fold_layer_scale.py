"""Fold a scale per channel after a linear layer into its weight and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlc.fusion import Fusion, constant, is_constant
from mlc.graph_pass import Exactness
from passes._shared import stored_twice


@dataclass(frozen=True)
class FoldLayerScale(Fusion):
    """``(x @ w + b) * s`` becomes ``x @ (w * s) + b * s``: one pass over the activations less.

    Refuses unless w, b and s are constant and not overridable, w is a matrix or a stack of them, s runs along its last
    axis (rank 1), and b has rank 1 at most; where ``x @ w`` or ``x @ w + b`` is used elsewhere or is an output of the
    graph; where w has more than a megabyte and is read elsewhere, so that it would be stored twice.
    """

    name: ClassVar[str] = "fold-layer-scale"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5

    def pattern(self, op, x, w, b, s):
        return op.Mul(op.Add(op.MatMul(x, w), b), s)

    def check(self, x, w, b, s) -> str | None:
        for role, value in (("weight", w), ("bias", b), ("scale", s)):
            if not is_constant(value):
                return f"the {role} is not constant"
        if w.shape is None or w.shape.rank() < 2:
            return "the weight is not a matrix"
        if s.shape is None or s.shape.rank() != 1 or s.shape[0] != w.shape[-1]:
            return "the scale does not run along the last axis"
        if b.shape is None or b.shape.rank() > 1:
            return "the bias does not run along the last axis"
        return stored_twice(w, len(w.uses()) - 1)

    def rewrite(self, op, x, w, b, s):
        scale = s.const_value.numpy()
        weight = constant(op, w.const_value.numpy() * scale)
        return op.Add(op.MatMul(x, weight), constant(op, b.const_value.numpy() * scale))
