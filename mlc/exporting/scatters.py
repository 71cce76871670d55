"""What is scattered along an axis, of which ONNX has other rules than torch."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from mlc.exporting.inserting import before, calls_of, replace, size_of, sizes_of


def scatters_of_indices(program: torch.export.ExportedProgram) -> None:
    """Write ``index_reduce`` as a scatter, of which each index is one for all that it takes."""
    aten = torch.ops.aten
    for node in calls_of(program, {aten.index_reduce.default}):
        values, dim, index, source, kind = node.args
        axis = dim % values.meta["val"].ndim
        sizes = sizes_of(node, source)
        row = [size if at == axis else 1 for at, size in enumerate(sizes)]
        alone = before(node, aten.reshape.default, index, row)
        into = before(node, aten.expand.default, alone, sizes)
        node.target, node.args = aten.scatter_reduce.two, (values, axis, into, source, kind)


def sources_of_scatters(program: torch.export.ExportedProgram) -> None:
    """Take of what is scattered no more than there are indices, as torch does: ONNX wants as many."""
    aten = torch.ops.aten
    scatters = {aten.scatter.src, aten.scatter_add.default, aten.scatter_reduce.two}
    for node in calls_of(program, scatters):
        every: list[Any] = list(node.args)
        values, dim, index, source, *more = every
        sizes = zip(index.meta["val"].shape, source.meta["val"].shape, strict=True)
        for axis, (wanted, given) in enumerate(sizes):
            if not statically_known_true(wanted == given):
                source = before(node, aten.slice.Tensor, source, axis, 0, size_of(node, index, axis))
        node.args = (values, dim, index, source, *more)


def ends_of_scatters(program: torch.export.ExportedProgram) -> None:
    """Begin with infinity where the largest or the smallest is scattered alone: torch.onnx takes a finite number."""
    aten = torch.ops.aten
    starts = {"amax": -torch.inf, "amin": torch.inf}
    for node in calls_of(program, {aten.scatter_reduce.two}):
        values, dim, index, _, kind = node.args
        alone = not node.kwargs.get("include_self", True)
        if not (alone and kind in starts and node.meta["val"].is_floating_point()):
            continue
        begun = before(node, aten.scatter.value, values, dim, index, starts[kind])
        node.args, node.kwargs = (begun, *node.args[1:]), {**node.kwargs, "include_self": True}


def means_of_scatters(program: torch.export.ExportedProgram) -> None:
    """Write what ``scatter_reduce`` has a mean of as a sum over how many there are: torch.onnx leaves the sum."""
    aten = torch.ops.aten
    for node in calls_of(program, {aten.scatter_reduce.two}):
        values, dim, index, source, kind = node.args
        if kind != "mean" or not node.meta["val"].is_floating_point():
            continue
        counted_too = node.kwargs.get("include_self", True)
        start = values if counted_too else before(node, aten.zeros_like.default, values)
        sums = before(node, aten.scatter_add.default, start, dim, index, source)
        own = before(node, aten.ones_like.default if counted_too else aten.zeros_like.default, values)
        count = before(node, aten.scatter_add.default, own, dim, index, before(node, aten.ones_like.default, source))
        mean = before(node, aten.div.Tensor, sums, before(node, aten.clamp_min.default, count, 1.0))
        if not counted_too:
            mean = before(node, aten.where.self, before(node, aten.gt.Scalar, count, 0), mean, values)
        replace(node, mean)
