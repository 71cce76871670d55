"""Masks of attention scores, as the Attention operator adds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from mlc.fusion import (
    Size,
    array_of,
    constant,
    dims_of,
    is_constant,
    is_standard,
    producer,
    scalar_of,
    sizes_of,
)
from passes._attention import AXES, Heads

LOWEST = np.finfo(np.float32).min

FINITE = np.float32(LOWEST / 2)
"""What takes the place of the lowest float: it masks as well, and for a row that is wholly the lowest float onnxruntime
gives 0, where a softmax gives the mean."""

MASKING = -1e9
"""A number up to which no score is taken for one that counts beside it."""

COPIES = frozenset({"Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What gives elements of its first input, and no others."""


@dataclass(frozen=True)
class Mask:
    """What is added to scores [batch, heads, queries, keys]; with ``fill``, the condition that replaces them with it.

    ``kept`` says whether the condition holds for scores that stay, ``zeros`` that rows without any give 0: of such a
    condition onnxruntime does the same.
    """

    value: ir.Value
    fill: float | None = None
    kept: bool = False
    zeros: bool = False

    def misfit(self, scores: list[Size]) -> str | None:
        """Return why it cannot be added to scores of these sizes, or None."""
        if self.fill is not None and not self.fill <= MASKING:
            return f"scores are replaced with {self.fill:g}, which others may be below"
        dims = dims_of(self.value)
        if dims is None or len(dims) > AXES:
            return "the axes of the mask are not known"
        pairs = zip(reversed(dims), reversed(scores), strict=False)
        return None if all(own in (1, other) for own, other in pairs) else "the mask is not known to fit the scores"

    def added(self, op: Any, scores: list[Size], q: Heads, k: Heads, *, three_axes: bool) -> ir.Value:
        """Return what Attention adds, made in a rewrite; onnxruntime wants its last two axes whole."""
        mask = self._finite(op)
        dims = dims_of(self.value)
        if dims is not None and len(dims) > 1 and dims[-2:] == scores[-2:]:
            return mask
        if all(isinstance(size, int) for size in scores[-2:]):
            lengths = constant(op, np.array(scores[-2:], np.int64))
        else:
            lengths = op.Concat(*(side.length(op, three_axes=three_axes) for side in (q, k)), axis=0)
        whole: ir.Value = op.Expand(mask, lengths)
        return whole

    def _finite(self, op: Any) -> ir.Value:
        """Return the mask without the lowest float; what is -inf stays."""
        made: ir.Value = self.value
        if self.zeros or (self.fill is None and not may_be_lowest(self.value)):
            return made
        if self.fill is None:
            lowest, finite = constant(op, np.array(LOWEST)), constant(op, np.array(FINITE))
            made = op.Where(op.Equal(self.value, lowest), finite, self.value)
        else:
            fill = constant(op, np.array(self.fill if math.isinf(self.fill) else FINITE, np.float32))
            zero = constant(op, np.array(0, np.float32))
            made = op.Where(self.value, *((zero, fill) if self.kept else (fill, zero)))
        return made


def with_zeros(mask: Mask, seen: ir.Value | None) -> Mask | None:
    """Return the mask that gives 0 for the rows where a condition does not hold, or None where it is not of its rows.

    The condition holds for rows that have any key left: of ``m`` in a mask ``where(m, 0, lowest)``, or above -inf.
    """
    left = _any_of(seen)
    made, above = producer(mask.value, "Where"), producer(left, "Greater")
    if above is not None and above.inputs[0] is mask.value and scalar_of(above.inputs[1]) == -math.inf:
        return mask
    if made is None or mask.fill is not None or made.inputs[0] is not left or scalar_of(made.inputs[1]) != 0.0:
        return None
    fill = scalar_of(made.inputs[2])
    return Mask(left, fill, kept=True, zeros=True) if left is not None and fill is not None else None


def _any_of(value: ir.Value | None) -> ir.Value | None:
    """Return the condition of which a value says where any element along the last axis holds, or None."""
    truth = producer(value, "Cast")
    most = producer(truth.inputs[0], "ReduceMax") if truth is not None else None
    number = producer(most.inputs[0], "Cast") if most is not None else None
    if most is None or number is None or number.inputs[0] is None or number.inputs[0].dtype != ir.DataType.BOOL:
        return None
    keeps = most.attributes.get("keepdims")
    last = len(most.inputs) > 1 and sizes_of(most.inputs[1]) in ([-1], [AXES - 1])
    return number.inputs[0] if last and (keeps is None or keeps.as_int() == 1) else None


def may_be_lowest(value: ir.Value | None) -> bool:
    """Whether an element of a value may be the lowest float."""
    if value is None:
        return True
    if is_constant(value):
        return bool((array_of(value) == LOWEST).any())
    node = value.producer()
    if node is None or not is_standard(node):
        return True
    if node.op_type == "Where":
        return any(map(may_be_lowest, node.inputs[1:]))
    return node.op_type not in COPIES or may_be_lowest(node.inputs[0])
