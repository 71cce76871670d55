"""The mean, the variance and the standard deviation of what may be nothing, where values say how many there are.

Of nothing they are NaN; what ONNX makes of them is 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from mlc.exporting.inserting import before, calls_of, nodes_of, replace
from mlc.exporting.reducing import parts_of, reduced

aten: Any = torch.ops.aten

ALONE = {aten.var_mean: aten.var, aten.std_mean: aten.std}
"""What gives the first of two results alone."""


def means_of_what_may_be_none(program: torch.export.ExportedProgram) -> None:
    """Divide a sum by how many there are."""
    for node in calls_of(program, {aten.mean.dim, aten.mean.default}):
        values, axes, keeps = reduced(node)
        if not _may_be_none(values, axes):
            continue
        dtype = node.meta["val"].dtype
        wide = before(node, aten._to_copy.default, values, dtype=dtype)  # noqa: SLF001
        mean = before(node, aten.sum.dim_IntList, wide, axes, keeps)
        for axis in axes:
            size = before(node, aten.sym_size.int, values, axis)
            count = before(node, aten.scalar_tensor.default, size, dtype=dtype)
            mean = before(node, aten.div.Tensor, mean, count)
        replace(node, mean)


def spreads_of_what_may_be_none(program: torch.export.ExportedProgram) -> None:
    """Add nought times the mean to a variance or a standard deviation: where there is no mean there is neither."""
    spreads = [node for node in nodes_of(program) if _packet(node) in {*ALONE, *ALONE.values()}]
    for node in [node for node in spreads if node.args[0].meta["val"].ndim]:
        values, axes, keeps = reduced(node)
        if not _may_be_none(values, axes):
            continue
        pair = _packet(node) in ALONE
        for part in parts_of(node) if pair else [node]:
            mean = before(part, aten.mean.dim, values, axes, keeps)
            if pair and part.args[1] == 1:
                replace(part, mean)
                continue
            alone = getattr(ALONE[_packet(node)], node.target._overloadname) if pair else node.target  # noqa: SLF001
            spread = before(part, alone, *node.args, **node.kwargs)
            replace(part, before(part, aten.add.Tensor, spread, before(part, aten.mul.Tensor, mean, 0.0)))
        if pair:
            node.graph.erase_node(node)


def _packet(node: torch.fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


def _may_be_none(values: torch.fx.Node, axes: list[int]) -> bool:
    return any(free_unbacked_symbols(values.meta["val"].shape[axis]) for axis in axes)
