"""Write an Einsum of two operands as the matrix product that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from mlc.fusion import Fusion, constant
from mlc.graph_pass import Exactness
from passes._kernels import DOMAIN, not_float32

KERNEL = f"{DOMAIN}.FusedMatMul"


@dataclass(frozen=True)
class EinsumToMatMul(Fusion):
    """``Einsum("ikc,jkc->ijc", a, b)`` becomes ``Transpose(MatMul(Transpose(a), Transpose(b)))``.

    Indices in both operands and in the result are batches, those in both but not in the result are summed, the others
    are rows or columns. A Transpose that moves one axis is ten times as fast on onnxruntime's CPU provider as one that
    moves several: where an operand needs the latter, and the kernel is there, ``com.microsoft.FusedMatMul`` reads it
    with its last two axes exchanged. Refuses other than two operands, an ellipsis, an index twice in one operand, an
    index summed in one operand alone, no or several summed indices, several rows and several columns (or either beside
    a batch) that only a reshape could join, an unknown rank, and a summed index whose two sizes are not known to be
    equal.
    """

    name: ClassVar[str] = "einsum-to-matmul"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    may_use_kernels: ClassVar[Mapping[str, str]] = {
        KERNEL: """(float[n,2,3] a, float[n,2,4] b) => (float[n,3,4] y)
            { y = com.microsoft.FusedMatMul<transA = 1>(a, b) }"""
    }

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
        made = multiplied(op, [Operand(a, left, first), Operand(b, right, second)], product)
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


@dataclass(frozen=True)
class Operand:
    """An operand, the indices of its axes, and those of the matrices that MatMul reads; an axis may be missing."""

    value: ir.Value
    present: str
    wanted: list[str]

    @property
    def exchanged(self) -> Operand:
        """The same with the last two axes of the matrices exchanged."""
        *batch, rows, columns = self.wanted
        return Operand(self.value, self.present, [*batch, columns, rows])

    def order(self) -> list[int]:
        """Return the order into which the axes have to be brought."""
        return [self.present.index(index) for index in self.wanted if index in self.present]

    def arranged(self, op: Any) -> ir.Value:
        """Bring the axes into that order, with an axis of size 1 for rows or columns that are missing."""
        value, order = self.value, self.order()
        if order != sorted(order):
            value = op.Transpose(value, perm=order)
        missing = [axis for axis, index in enumerate(self.wanted) if index not in self.present]
        return op.Unsqueeze(value, constant(op, np.array(missing, np.int64))) if missing else value


def multiplied(op: Any, operands: list[Operand], product: list[str]) -> ir.Value:
    """Write the product of two operands, one that is slow to transpose with its last two axes exchanged.

    Type and sizes of a product of these indices are noted where ONNX's inference has no rule for the operator.
    """
    turned = [not _is_fast(each.order()) and _is_fast(each.exchanged.order()) for each in operands]
    made: ir.Value
    if not any(turned) or KERNEL not in op.cpu_kernels or not_float32(operands[0].value):
        made = op.MatMul(*(each.arranged(op) for each in operands))
        return made
    inputs = [(each.exchanged if turn else each).arranged(op) for each, turn in zip(operands, turned, strict=True)]
    made = op.FusedMatMul(*inputs, transA=int(turned[0]), transB=int(turned[1]), _domain=DOMAIN)
    made.type, made.shape = operands[0].value.type, ir.Shape(list(map(sizes_in(operands).get, product)))
    return made


def sizes_in(operands: list[Operand]) -> dict[str, ir.SymbolicDim | int | None]:
    """Return the size of every index, None where the operands do not agree."""
    sizes: dict[str, ir.SymbolicDim | int | None] = {ROW: 1, COLUMN: 1}
    for each in operands:
        for index, size in zip(each.present, each.value.shape or (), strict=True):
            sizes[index] = size if sizes.get(index, size) == size else None
    return sizes


def _is_fast(order: list[int]) -> bool:
    """Whether onnxruntime copies whole rows: at most one axis moves, and the others keep their order."""
    return any(
        [each for each in order if each != axis] == [each for each in sorted(order) if each != axis] for axis in order
    )
