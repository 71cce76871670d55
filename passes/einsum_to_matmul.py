"""Write an Einsum of two operands as the matrix product that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.fusion import Fusion, constant
from mlc.graph_pass import Exactness

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class EinsumToMatMul(Fusion):
    """``Einsum("ikc,jkc->ijc", a, b)`` becomes ``Transpose(MatMul(Transpose(a), Transpose(b)))``.

    Indices in both operands and in the result are batches, those in both but not in the result are summed, the others
    are rows or columns. Refuses other than two operands, an ellipsis, an index twice in one operand, an index summed in
    one operand alone, no or several summed indices, several rows and several columns (or either beside a batch) that
    only a reshape could join, an unknown rank, and a summed index whose two sizes are not known to be equal.
    """

    name: ClassVar[str] = "einsum-to-matmul"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5

    def pattern(self, op, a):
        return op.Einsum(a, _allow_other_inputs=True, _outputs=["y"])

    def check(self, a, y) -> str | None:
        node = y.producer()
        if len(node.inputs) != 2:
            return f"it has {len(node.inputs)} operands, not two"
        equation = node.attributes["equation"].as_string().replace(" ", "")
        if "..." in equation:
            return "it has an ellipsis"
        left, right, result = terms(equation)
        for operand in (left, right):
            twice = [index for index in operand if operand.count(index) > 1]
            if twice:
                return f"the index {twice[0]} is twice in one operand"
        indices = Indices.of(left, right, result)
        return indices.reason(left, right, result) or sizes_reason(node, left, right, indices)

    def rewrite(self, op, a, y):
        node = y.producer()
        b = node.inputs[1]
        left, right, result = terms(node.attributes["equation"].as_string().replace(" ", ""))
        indices = Indices.of(left, right, result)
        rows, columns = indices.rows or [ROW], indices.columns or [COLUMN]
        first = [*indices.batch, *rows, *indices.summed]
        second = [*indices.batch, *columns[:-1], *indices.summed, columns[-1]]
        product = [*indices.batch, *rows[:-1], *columns[:-1], rows[-1], columns[-1]]
        made = op.MatMul(arranged(op, a, left, first), arranged(op, b, right, second))
        missing = [product.index(index) for index in (ROW, COLUMN) if index in product]
        if missing:
            made = op.Squeeze(made, constant(op, np.array(missing, np.int64)))
        present = [index for index in product if index not in (ROW, COLUMN)]
        order = [present.index(index) for index in result]
        return op.Transpose(made, perm=order) if order != list(range(len(order))) else made


ROW, COLUMN = "<row>", "<column>"
"""Stand for the rows or columns of an operand that has none: an axis of size 1, taken away afterwards."""


@dataclass(frozen=True)
class Indices:
    """The indices of a product of two operands by their part in it, each in the result's order."""

    batch: list[str]
    rows: list[str]
    columns: list[str]
    summed: list[str]

    @classmethod
    def of(cls, left: str, right: str, result: str) -> Indices:
        """Sort the indices of an equation."""
        both = set(left) & set(right)
        return cls(
            [index for index in result if index in both],
            [index for index in result if index in left and index not in both],
            [index for index in result if index in right and index not in both],
            [index for index in left if index in both and index not in result],
        )

    def reason(self, left: str, right: str, result: str) -> str | None:
        """Return why this is no matrix product, or None."""
        alone = [index for index in left + right if index not in result and (index in left) != (index in right)]
        if alone:
            return f"the index {alone[0]} is summed in one operand alone"
        if not self.summed:
            return "no index is summed"
        if len(self.summed) > 1:
            return "several indices are summed"
        many_rows, many_columns = len(self.rows) > 1, len(self.columns) > 1
        if (many_rows and many_columns) or ((many_rows or many_columns) and self.batch):
            return "several rows or columns would have to be joined by a reshape"
        return None


def terms(equation: str) -> tuple[str, str, str]:
    """Return the indices of both operands and of the result; without ``->`` those that stand once, sorted."""
    operands, arrow, result = equation.partition("->")
    left, _, right = operands.partition(",")
    if not arrow:
        result = "".join(sorted(index for index in set(left + right) if (left + right).count(index) == 1))
    return left, right, result


def sizes_reason(node: ir.Node, left: str, right: str, indices: Indices) -> str | None:
    """Return why sizes forbid a matrix product: unknown ranks, or a size of 1 that Einsum would broadcast."""
    shapes = [None if value is None else value.shape for value in node.inputs]
    if shapes[0] is None or shapes[1] is None:
        return "the rank of an operand is not known"
    for index in (*indices.summed, *indices.batch):
        first, second = shapes[0][left.index(index)], shapes[1][right.index(index)]
        known = isinstance(first, int) or getattr(first, "value", None) is not None
        if first == second and known:
            continue
        if index in indices.summed or isinstance(first, int) != isinstance(second, int):
            return f"the sizes of {index} are not known to be equal"
        if isinstance(first, int):
            return f"the index {index} is broadcast"
    return None


def arranged(op, value: ir.Value, present: str, wanted: list[str]) -> ir.Value:
    """Bring the axes of an operand into an order, with an axis of size 1 for rows or columns that it does not have."""
    order = [present.index(index) for index in wanted if index in present]
    if order != list(range(len(order))):
        value = op.Transpose(value, perm=order)
    missing = [axis for axis, index in enumerate(wanted) if index not in present]
    return op.Unsqueeze(value, constant(op, np.array(missing, np.int64))) if missing else value
