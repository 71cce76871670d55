"""Drop the guard against rows of NaN where no row can be wholly masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.fusion import Match, Search, array_of, is_constant, is_standard, producer
from mlc.graph_pass import Exactness
from passes._guards import guard_of

if TYPE_CHECKING:
    import onnx_ir as ir

COPIES = frozenset({"Identity", "Unsqueeze", "Squeeze", "Expand", "Reshape", "Transpose", "Slice"})
"""What gives elements of its first input, and no others."""

SUMS = frozenset({"MatMul", "Einsum", "Gemm"})
"""What scores come from that have no mask."""

SCALING = frozenset({"Mul", "Div"})

OF_SIZES = COPIES | SCALING | {"Cast", "Gather", "Pow", "Reciprocal", "Sqrt"}
"""What scales are computed with from sizes."""


@dataclass(frozen=True)
class DropSoftmaxGuard(Search):
    """``Where(IsNaN(s), 0, s)`` with ``s = Softmax(z)`` becomes ``s``: of finite scores it never is NaN.

    torch exports the guard with every mask; ``where(~isnan(s), s, 0)``, the same with ``s == s``, and ``nan_to_num(s)``
    are guards too. Refuses unless z is a product of matrices, scaled or not, to which nothing is added, or a mask whose
    elements are all finite, such as the lowest float: a row that is wholly -inf is NaN, and the guard makes it 0. The
    same bits for finite scores; in 16 bits the lowest float would be -inf, so that a graph loses its guard only as long
    as it stays in 32.
    """

    name: ClassVar[str] = "drop-softmax-guard"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    min_opset: ClassVar[int] = 13

    ends: ClassVar[frozenset[str]] = frozenset({"Where"})

    def look(self, node: ir.Node) -> Match | None:
        guard = guard_of(node.outputs[0])
        if guard is None or any(guard_of(use.node.outputs[0]) is not None for use in node.outputs[0].uses()):
            return None  # the last of several Where has all of them
        return Match(guard.nodes, node.outputs, {"z": guard.softmax.inputs[0], "guard": guard})

    def check(self, z, guard) -> str | None:
        if not guard.gives_zero:
            return "what stands for NaN is not one 0"
        if z.dtype is None or z.dtype.name != "FLOAT":
            return "the scores are not float32"
        return None if _never_masked_out(z) else "a row of the mask may be wholly -inf"

    def rewrite(self, op, z, guard):
        axis = guard.softmax.attributes.get("axis")
        return op.Softmax(z, axis=-1 if axis is None else axis.as_int())


def _never_masked_out(scores: ir.Value) -> bool:
    """Whether scores have no mask, or a finite one."""
    masked = producer(scores, "Add")
    if masked is None:
        return _plain(scores)
    return any(map(_finite, masked.inputs)) and any(map(_plain, masked.inputs))


def _plain(value: ir.Value | None) -> bool:
    """Whether a value is a product of matrices, scaled or not: scores without a mask."""
    node = value.producer() if value is not None else None
    if node is None or not is_standard(node):
        return False
    if node.op_type in SCALING:
        first, second = node.inputs
        return (_plain(first) and _is_scale(second)) or (node.op_type == "Mul" and _is_scale(first) and _plain(second))
    added = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    return node.op_type in SUMS and (added is None or _finite(added))


def _is_scale(value: ir.Value | None) -> bool:
    """Whether a value leaves finite numbers finite: a temperature that an input gives may be 0, one of sizes is not."""
    if value is None:
        return False
    if is_constant(value):
        return bool(np.isfinite(array_of(value)).all() and array_of(value).all())
    single = value.shape is not None and all(size == 1 for size in value.shape)
    return single and _of_sizes(value)


def _of_sizes(value: ir.Value | None) -> bool:
    """Whether a value is computed from sizes and constants alone."""
    if value is None or is_constant(value):
        return value is not None
    node = value.producer()
    if node is None or not is_standard(node):
        return False
    return node.op_type == "Shape" or (node.op_type in OF_SIZES and all(map(_of_sizes, node.inputs)))


def _finite(value: ir.Value | None) -> bool:
    """Whether all elements of a value are known to be finite."""
    if value is None:
        return False
    if is_constant(value):
        array = array_of(value)
        return array.dtype.kind == "f" and bool(np.isfinite(array).all())
    node = value.producer()
    if node is None or not is_standard(node):
        return False
    if node.op_type == "Where":
        return all(_finite(branch) for branch in node.inputs[1:])
    return node.op_type in COPIES and _finite(node.inputs[0])
