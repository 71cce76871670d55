"""Operators that write into what they are given, as those that do not and a copy: the others look for one name."""

from __future__ import annotations

import torch

from mlc.exporting.inserting import before, calls_of, replace

NAMES = (
    "ceil", "clamp", "clamp_max", "clamp_min", "cumprod", "floor", "index_reduce", "log", "relu", "remainder", "round",
    "rrelu", "scatter", "scatter_add", "scatter_reduce", "trunc",
)  # fmt: skip
"""Those that torch.onnx cannot take as they are."""


def copied_back(program: torch.export.ExportedProgram) -> None:
    """Write ``x.f_(y)`` as ``x.copy_(x.f(y))`` where ``f`` is mended."""
    aten = torch.ops.aten
    own = [(getattr(aten, f"{name}_"), getattr(aten, name)) for name in NAMES]
    twins = {getattr(into, kind): getattr(other, kind) for into, other in own for kind in into.overloads()}
    for node in calls_of(program, twins):
        computed = before(node, twins[node.target], *node.args, **node.kwargs)
        replace(node, before(node, aten.copy_.default, node.args[0], computed))
