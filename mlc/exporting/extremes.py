"""The largest and the smallest of all elements: torch.onnx asks for the axes."""

from __future__ import annotations

import operator

import torch

from mlc.exporting.inserting import before, replace

EXTREMES = (torch.ops.aten.amin.default, torch.ops.aten.amax.default)


def extremes_of_all(program: torch.export.ExportedProgram) -> None:
    """Write down all axes of ``amax``, ``amin`` and ``aminmax`` where none is given."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.aminmax.default):
        if node.kwargs.get("dim") is None and all(user.target is operator.getitem for user in node.users):
            for part in list(node.users):
                place = int(bool(part.args[1]))
                replace(part, before(part, EXTREMES[place], node.args[0], [], node.kwargs.get("keepdim", False)))
            program.graph.erase_node(node)
    for node in [node for node in program.graph.nodes if node.target in EXTREMES]:
        values, *given = node.args
        rank = values.meta["val"].ndim
        if rank and not any(given[:1]) and "dim" not in node.kwargs:
            node.args = (values, list(range(rank)), *given[1:])
