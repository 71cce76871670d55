"""Operators of integers that onnxruntime has for floats alone."""

from __future__ import annotations

import torch

from mlc.exporting.inserting import before, calls_of, of_dtype, replace

FEW = 16
"""So many numbers are multiplied one by one."""


def integers_as_they_are(program: torch.export.ExportedProgram) -> None:
    """Write ``relu`` of integers as a bound, and what rounds them as nothing: onnxruntime has neither."""
    aten = torch.ops.aten
    rounding = {aten.round.default, aten.floor.default, aten.ceil.default, aten.trunc.default}
    for node in calls_of(program, {aten.relu.default, *rounding}):
        if node.meta["val"].is_floating_point():
            continue
        same = node.target in rounding
        replace(node, node.args[0] if same else before(node, aten.clamp_min.default, node.args[0], 0))


def products_of_integers(program: torch.export.ExportedProgram) -> None:
    """Multiply the few integers of a ``prod`` one by one: onnxruntime multiplies those of ReduceProd as floats."""
    aten = torch.ops.aten
    for node in calls_of(program, {aten.prod.dim_int}):
        values, axis, *keeps = node.args
        dtype, count = node.meta["val"].dtype, values.meta["val"].shape[axis] if values.meta["val"].ndim else 0
        if dtype.is_floating_point or dtype.is_complex or not isinstance(count, int) or not 0 < count <= FEW:
            continue
        values = of_dtype(node, values, dtype)
        product, *others = (before(node, aten.select.int, values, axis, place) for place in range(count))
        for each in others:
            product = before(node, aten.mul.Tensor, product, each)
        replace(node, before(node, aten.unsqueeze.default, product, axis) if any(keeps) else product)
