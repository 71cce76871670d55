"""The largest and the smallest of all elements: torch.onnx asks for the axes."""

from __future__ import annotations

import operator

import torch

from mlc.exporting.inserting import before, calls_of, replace

EXTREMES = (torch.ops.aten.amin.default, torch.ops.aten.amax.default)


def extremes_of_all(program: torch.export.ExportedProgram) -> None:
    """Write down all axes of ``amax``, ``amin`` and ``aminmax`` where none is given."""
    for node in calls_of(program, {torch.ops.aten.aminmax.default}):
        whole = node.kwargs.get("dim") is None or not node.args[0].meta["val"].ndim
        if whole and all(user.target is operator.getitem for user in node.users):
            for part in list(node.users):
                place = int(bool(part.args[1]))
                replace(part, before(part, EXTREMES[place], node.args[0], [], node.kwargs.get("keepdim", False)))
            node.graph.erase_node(node)
    for node in calls_of(program, EXTREMES):
        values, *given = node.args
        rank = values.meta["val"].ndim
        if not rank:
            replace(node, values)
        elif not any(given[:1]) and "dim" not in node.kwargs:
            node.args = (values, list(range(rank)), *given[1:])
