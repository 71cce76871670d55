"""The mean, the variance and the standard deviation of what may be nothing, by what values or declared sizes say.

Of nothing they are NaN; what ONNX makes of them is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from mlc.exporting.errors import SizesError, line_of
from mlc.exporting.inserting import before, calls_of, nodes_of, of_dtype, replace
from mlc.exporting.legal_sizes import LegalSizes
from mlc.exporting.reducing import parts_of, reduced
from mlc.types import InputSpec

aten: Any = torch.ops.aten

LEAST = 2
"""The least size that torch takes for no constant."""

ALONE = {aten.var_mean: aten.var, aten.std_mean: aten.std}
"""What gives the first of two results alone."""


def means_of_what_may_be_none(program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> None:
    """Divide a sum by how many there are."""
    legal = LegalSizes.of(program, inputs)
    for node in calls_of(program, {aten.mean.dim, aten.mean.default}):
        values, axes, keeps = reduced(node)
        if not _may_be_none(values, axes, legal):
            continue
        dtype = node.meta["val"].dtype
        wide = of_dtype(node, values, dtype)
        mean = before(node, aten.sum.dim_IntList, wide, axes, keeps)
        for axis in axes:
            size = before(node, aten.sym_size.int, values, axis)
            count = before(node, aten.scalar_tensor.default, size, dtype=dtype)
            count = before(node, aten.clamp_min.default, count, 0.0)  # for x[2:] of one element torch has less than 0
            mean = before(node, aten.div.Tensor, mean, count)
        replace(node, mean)


def spreads_of_what_may_be_none(program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> None:
    """Add nought times the mean to a variance or a standard deviation: where there is no mean there is neither."""
    legal = LegalSizes.of(program, inputs)
    spreads = [node for node in nodes_of(program) if _packet(node) in {*ALONE, *ALONE.values()}]
    for node in [node for node in spreads if node.args[0].meta["val"].ndim]:
        values, axes, keeps = reduced(node)
        if not _may_be_none(values, axes, legal):
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


def check_enough(program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> None:
    """Raise SizesError where a trace has no element, or one, of what may be nothing at other legal sizes.

    What is mended there is traced once more by torch.onnx, and the size would be a constant.
    """
    legal = LegalSizes.of(program, inputs)
    for node in nodes_of(program):
        if _packet(node) not in {aten.mean, *ALONE, *ALONE.values()}:
            continue
        values, axes, _ = reduced(node)
        shape = values.meta["val"].shape
        few = (axis for axis in axes if _is_few(shape[axis]))
        if _may_be_none(values, list(few), legal):
            line = line_of(node)
            raise SizesError(f"no more than one element is reduced{f' at {line}' if line else ''}")


def _is_few(size: Any) -> bool:
    """Whether a size that varies is 0 or 1 in the trace; of one that follows from values nothing is known there."""
    return isinstance(size, torch.SymInt) and not free_unbacked_symbols(size) and size.node.hint < LEAST


def _may_be_none(values: torch.fx.Node, axes: list[int], legal: LegalSizes) -> bool:
    """Whether an axis has no element at any legal size, or as many as values say."""
    sizes = [values.meta["val"].shape[axis] for axis in axes]
    return any(free_unbacked_symbols(size) or legal.may_be_none(size) for size in sizes)
