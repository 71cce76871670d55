"""Fold a linear layer into the one behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, is_constant, is_standard, near_miss
from mlc.graph_pass import Exactness
from passes._linear import Linear, linear_of

if TYPE_CHECKING:
    import onnx_ir as ir

MOVING = frozenset({"Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What moves or takes elements, and computes nothing with them."""


@dataclass(frozen=True)
class FoldLinear(Search):
    """``(x @ a + b) @ c + d`` becomes ``x @ (a @ c) + (b @ c + d)``, where that takes fewer multiply-adds.

    With a [k, m] and c [m, n] that is where ``k * n < k * m + m * n``: a pair of low rank, such as an adapter, stays.
    Refuses where a value between is used elsewhere, is an output of the graph, or is reshaped or taken a part of; where
    a or c is used elsewhere, so that it would be kept twice; unless all of a to d are constant, a and c matrices, and b
    and d vectors.
    """

    name: ClassVar[str] = "fold-linear"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "Gemm", "MatMul"})

    def look(self, node: ir.Node) -> Match | None:
        second = linear_of(node.outputs[0])
        first = linear_of(second.x) if second is not None else None
        if second is None or _goes_on(node):
            return None
        if first is None:
            return near_miss(node, _between(second))
        return Match([*first.nodes, *second.nodes], node.outputs[:1], {"first": first, "second": second})

    def check(self, first, second) -> str | None:
        reason: str | None = first.reason_to_stay() or second.reason_to_stay()
        if reason is not None:
            return reason
        if len(first.weight.uses()) > 1 or len(second.weight.uses()) > 1:
            return "a weight is used elsewhere"
        if second.transposes_input:
            return "the value between is transposed"
        k, m, n = first.rows, first.columns, second.columns
        return None if k * n < k * m + m * n else "one product would take more multiply-adds than both"

    def rewrite(self, op, first, second):
        matrix = second.matrix()
        offset = first.offset() @ matrix + second.offset()
        biased = first.bias is not None or second.bias is not None
        return first.written(op, first.matrix() @ matrix, offset if biased else None)


def _between(second: Linear) -> str:
    """Return what stands between two linear layers with constant weights, or nothing where there are not two."""
    value, steps = second.x, dict[str, None]()
    while (node := value.producer()) is not None and is_standard(node) and node.op_type in MOVING:
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
        steps[node.op_type] = None
    first = linear_of(value) if steps else None
    constant = first is not None and is_constant(first.weight) and is_constant(second.weight)
    return f"the value between goes through {' and '.join(reversed(steps))}" if constant else ""


def _goes_on(node: ir.Node) -> bool:
    """Whether a product is only the first part of a layer: an Add of a bias follows."""
    following = [use.node for use in node.outputs[0].uses()]
    linear = linear_of(following[0].outputs[0]) if len(following) == 1 and following[0].op_type == "Add" else None
    return linear is not None and linear.nodes[0] is node
