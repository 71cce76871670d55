"""The variance and the standard deviation as means: torch.onnx takes what is kept of an axis apart into shapes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from mlc.exporting.inserting import before, calls_of, replace
from mlc.exporting.reducing import arguments_of, parts_of, reduced

aten: Any = torch.ops.aten

SPREADS = {aten.var: False, aten.std: True, aten.var_mean: False, aten.std_mean: True}
"""Of which a root is taken."""

PAIRS = (aten.var_mean, aten.std_mean)

DTYPES = (torch.float32, torch.float64)


def spreads_by_means(program: torch.export.ExportedProgram) -> None:
    """Write the mean of squared differences from the mean, corrected where one is subtracted from the count.

    Left as they are where nothing says how many there are, or how many are too few.
    """
    kinds = {getattr(packet, kind) for packet in SPREADS for kind in packet.overloads()}
    for node in [node for node in calls_of(program, kinds) if node.args[0].meta["val"].ndim]:
        (values, axes, keeps), correction = reduced(node), _correction(node)
        sizes = [values.meta["val"].shape[axis] for axis in axes]
        counted = all(isinstance(size, int) for size in sizes)
        unknown = any(free_unbacked_symbols(size) for size in sizes)
        if values.meta["val"].dtype not in DTYPES or unknown or not axes:
            continue
        if correction and (not counted or math.prod(sizes) <= correction):
            continue
        pair = node.target.overloadpacket in PAIRS
        for part in parts_of(node) if pair else [node]:
            if pair and part.args[1] == 1:
                replace(part, before(part, aten.mean.dim, values, axes, keeps))
                continue
            apart = before(part, aten.sub.Tensor, values, before(part, aten.mean.dim, values, axes, True))  # noqa: FBT003
            spread = before(part, aten.mean.dim, before(part, aten.mul.Tensor, apart, apart), axes, keeps)
            if correction:
                count = math.prod(sizes)
                spread = before(part, aten.mul.Tensor, spread, count / (count - correction))
            root = SPREADS[node.target.overloadpacket]
            replace(part, before(part, aten.sqrt.default, spread) if root else spread)
        if pair and not node.users:
            node.graph.erase_node(node)


def _correction(node: torch.fx.Node) -> float:
    """Return what a call subtracts from the count."""
    given = arguments_of(node)
    correction = given.get("correction")
    return float(given.get("unbiased", True)) if correction is None else float(correction)
