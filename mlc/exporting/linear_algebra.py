"""Inverses, solutions and Cholesky factors of small matrices, row by row: ONNX has no operators for them.

By Gauss-Jordan elimination with partial pivoting, and the outer-product form of Cholesky's factorization; Golub and
Van Loan, Matrix Computations (2013), sections 3.4 and 4.2. What batches there are is free, how many rows is not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript
import torch

from mlc.errors import SourceError
from mlc.exporting.constants import ints
from mlc.exporting.errors import UnwrittenError
from mlc.exporting.inserting import before, nodes_of, replace

op: Any = onnxscript.opset18

ROWS = 32
"""Of so many rows a matrix is small: each of them takes about ten nodes."""

END = 2**63 - 1


def of_matrices() -> dict[Any, Callable[..., Any]]:
    """Return a function for each operator, as torch.onnx takes them."""
    aten = torch.ops.aten
    return {
        aten.linalg_inv_ex.default: lambda a, check_errors=False: (_inverse(a), _right()),  # noqa: ARG005
        aten._linalg_solve_ex.default: _solve,  # noqa: SLF001
        aten._linalg_slogdet.default: _slogdet,  # noqa: SLF001
        aten.linalg_cholesky_ex.default: _cholesky,
        aten.linalg_solve_triangular.default: _solve_triangular,
        aten.cholesky_solve.default: _cholesky_solve,
        aten.cholesky_inverse.default: lambda factor, upper=False: _cholesky_solve(_unit(factor), factor, upper),
    }


def unchecked_matrices(program: torch.export.ExportedProgram) -> None:
    """Leave out of a program that a matrix without an inverse, or without a factor, is an error."""
    aten = torch.ops.aten
    for node in nodes_of(program):
        if node.target in {aten.linalg_inv.default, aten.inverse.default}:
            _first_of(node, aten.linalg_inv_ex.default, *node.args)
        elif node.target in {aten.linalg_cholesky.default, aten.cholesky.default}:
            values, *upper = node.args
            options = {"upper": upper[0]} if upper else node.kwargs
            _first_of(node, aten.linalg_cholesky_ex.default, values, **options)
        elif node.target == aten.linalg_solve.default:
            _first_of(node, aten.linalg_solve_ex.default, *node.args, **node.kwargs)
        elif node.target in {aten.linalg_inv_ex.default, aten.linalg_cholesky_ex.default, aten.linalg_solve_ex.default}:
            _check_info_unread(node)
        elif node.target == aten._linalg_check_errors.default:  # noqa: SLF001
            node.graph.erase_node(node)


def _check_info_unread(node: torch.fx.Node) -> None:
    """Raise SourceError where the model asks whether a matrix was right: nothing looks at that."""
    if any(user.args[1] and user.users for user in node.users):
        named = str(node.target).partition(".")[2].partition(".")[0]
        hint = "look at the numbers themselves: of a matrix without an inverse they are infinite or NaN"
        raise SourceError(f"the model reads the info of {named}, which has no counterpart in ONNX", hint)


def _first_of(node: torch.fx.Node, target: Any, *args: Any, **kwargs: Any) -> None:
    replace(node, before(node, operator.getitem, before(node, target, *args, **kwargs), 0))


def _inverse(a: Any) -> Any:
    """Return the inverse of each matrix of [..., n, n]; of one that has none what is infinite, or none."""
    found, _ = _eliminated(a, _unit(a))
    return found


def _unit(a: Any) -> Any:
    """Return the unit matrix for each of [..., n, n]."""
    unit = op.CastLike(op.Constant(value=ir.tensor(np.eye(_rows(a), dtype=np.float32))), a)
    return op.Expand(unit, op.Shape(a))


def _slogdet(a: Any) -> Any:
    """Return the sign of each determinant and the logarithm of its size; what else torch returns nobody reads."""
    signs, sizes, none = [], [], []
    for pivot, stays in _eliminated(a, a)[1]:
        signs.append(op.Where(stays, op.Sign(pivot), op.Neg(op.Sign(pivot))))
        sizes.append(op.Log(op.Abs(pivot)))
        none.append(op.Cast(op.Equal(pivot, op.CastLike(0.0, a)), to=ir.DataType.FLOAT))
    axes, singular = ints(-2, -1), op.Greater(op.Sum(*none), op.Constant(value_float=0.0))  # the next pivots are NaN
    sign = op.Where(singular, op.CastLike(0.0, a), reduce(op.Mul, signs))
    size = op.Where(singular, op.CastLike(-math.inf, a), op.Sum(*sizes))
    return op.Squeeze(sign, axes), op.Squeeze(size, axes), _right(), _right()


def _eliminated(a: Any, beside: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return what stands beside matrices when they have become the unit, and each pivot and if it was in its row."""
    n = _rows(a)
    rows = op.Unsqueeze(ints(*range(n)), ints(-1))
    both, pivots = op.Concat(a, beside, axis=-1), []
    for k in range(n):
        sizes = op.Where(op.Less(rows, ints(k)), op.CastLike(-1.0, a), op.Abs(_columns(both, k, k + 1)))
        found = op.ArgMax(sizes, axis=-2, keepdims=1)
        here = op.Equal(rows, ints(k))
        order = op.Where(here, found, op.Where(op.Equal(rows, found), ints(k), rows))
        both = op.GatherElements(both, op.Expand(order, op.Shape(both)), axis=-2)
        row = _rows_of(both, k, k + 1)
        pivot = _columns(row, k, k + 1)
        pivots.append((pivot, op.Equal(found, ints(k))))
        row = op.Div(row, pivot)
        both = op.Where(here, row, op.Sub(both, op.Mul(_columns(both, k, k + 1), row)))
    return _columns(both, n, END), pivots


def _solve(a: Any, b: Any, left: bool = True, check_errors: bool = False) -> Any:  # noqa: ARG001
    """Return x of a x = b, or of x a = b; what else torch returns nobody reads."""
    vectors = len(b.shape) == 1 or (len(b.shape) == len(a.shape) - 1 and b.shape == a.shape[:-1])
    columns = op.Unsqueeze(b, ints(-1)) if vectors else b
    found = op.MatMul(_inverse(a), columns) if left else op.MatMul(columns, _inverse(a))
    return op.Squeeze(found, ints(-1)) if vectors else found, _right(), _right(), _right()


def _cholesky(a: Any, upper: bool = False, check_errors: bool = False) -> Any:  # noqa: ARG001
    """Return the factor of each symmetric matrix, of which one triangle is read; NaN where it has none."""
    n = _rows(a)
    rows, axes, factor = op.Unsqueeze(ints(*range(n)), ints(-1)), len(a.shape), []
    rest = _transposed(a, axes) if upper else a
    for k in range(n):
        column = _columns(rest, k, k + 1)
        scaled = op.Div(column, op.Sqrt(_rows_of(column, k, k + 1)))
        factor.append(op.Where(op.Less(rows, ints(k)), op.CastLike(0.0, a), scaled))
        rest = op.Sub(rest, op.MatMul(factor[-1], _transposed(factor[-1], axes)))
    lower = op.Concat(*factor, axis=-1)
    return _transposed(lower, axes) if upper else lower, _right()


def _solve_triangular(a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """Return x of a x = b, or of x a = b, where one triangle of a is 0, or is not looked at."""
    n, axes = _rows(a), max(len(a.shape), len(b.shape))
    if left:
        return _substituted(a, b, n, upper=upper, unit=unitriangular)
    a, b = _transposed(a, len(a.shape)), _transposed(b, len(b.shape))
    return _transposed(_substituted(a, b, n, upper=not upper, unit=unitriangular), axes)


def _cholesky_solve(b: Any, factor: Any, upper: bool = False) -> Any:
    """Return x of a x = b, of the factor of a."""
    n, other = _rows(factor), _transposed(factor, len(factor.shape))
    lower, above = (other, factor) if upper else (factor, other)
    return _substituted(above, _substituted(lower, b, n, upper=False), n, upper=True)


def _substituted(a: Any, b: Any, n: int, *, upper: bool, unit: bool = False) -> Any:
    """Return x of a x = b, one row after the other, from the last one where a has no lower triangle."""
    b = op.Expand(b, op.Concat(op.Shape(a, end=-2), ints(1, 1), axis=0))
    found: list[Any] = []
    for k in reversed(range(n)) if upper else range(n):
        row, value = _rows_of(a, k, k + 1), _rows_of(b, k, k + 1)
        if found:
            known = _columns(row, k + 1, END) if upper else _columns(row, 0, k)
            value = op.Sub(value, op.MatMul(known, op.Concat(*found, axis=-2)))
        value = value if unit else op.Div(value, _columns(row, k, k + 1))
        found = [value, *found] if upper else [*found, value]
    return op.Concat(*found, axis=-2)


def _rows(a: Any) -> int:
    n = a.shape[-1]
    if not isinstance(n, int) or n > ROWS:
        raise UnwrittenError(f"{n} rows in a matrix to be inverted or factorized, and at most {ROWS} can be")
    return n


def _rows_of(a: Any, start: int, end: int) -> Any:
    return op.Slice(a, ints(start), ints(end), ints(-2))


def _columns(a: Any, start: int, end: int) -> Any:
    return op.Slice(a, ints(start), ints(end), ints(-1))


def _transposed(a: Any, axes: int) -> Any:
    return op.Transpose(a, perm=[*range(axes - 2), axes - 1, axes - 2])


def _right() -> Any:
    """Return that no matrix was found wrong, as none is looked for."""
    return op.Constant(value=ir.tensor(0, dtype=ir.DataType.INT32))
