"""Fold a linear layer into the one behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search
from mlc.graph_pass import Exactness
from passes._linear import linear_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FoldLinear(Search):
    """``(x @ a + b) @ c + d`` becomes ``x @ (a @ c) + (b @ c + d)``, where that takes fewer multiply-adds.

    With a [k, m] and c [m, n] that is where ``k * n < k * m + m * n``: a pair of low rank, such as an adapter, stays.
    Refuses where a value between is used elsewhere or is an output of the graph; where a or c is used elsewhere, so
    that it would be kept twice; unless all of a to d are constant, a and c matrices, and b and d vectors.
    """

    name: ClassVar[str] = "fold-linear"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "Gemm", "MatMul"})

    def look(self, node: ir.Node) -> Match | None:
        second = linear_of(node.outputs[0])
        first = linear_of(second.x) if second is not None else None
        if first is None or second is None or _goes_on(node):
            return None
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


def _goes_on(node: ir.Node) -> bool:
    """Whether a product is only the first part of a layer: an Add of a bias follows."""
    following = [use.node for use in node.outputs[0].uses()]
    linear = linear_of(following[0].outputs[0]) if len(following) == 1 and following[0].op_type == "Add" else None
    return linear is not None and linear.nodes[0] is node
