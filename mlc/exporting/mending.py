"""What torch.onnx cannot take of a program of torch.export, written so that it can."""

from __future__ import annotations

import torch


def without_asserts(program: torch.export.ExportedProgram) -> None:
    """Take guards that were put off out of the graph: all that they say has been evaluated."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):  # noqa: SLF001
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def promote_subtrahends(program: torch.export.ExportedProgram) -> None:
    """Cast the integers of ``1.0 - mask`` to the dtype of the difference: torch.onnx takes the number for a tensor."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.rsub.Scalar):
        subtrahend, dtype = node.args[0], node.meta["val"].dtype
        if subtrahend.meta["val"].dtype == dtype:
            continue
        with program.graph.inserting_before(node):
            cast = program.graph.call_function(torch.ops.aten._to_copy.default, (subtrahend,), {"dtype": dtype})  # noqa: SLF001
        cast.meta = {**node.meta, "val": subtrahend.meta["val"].to(dtype)}
        node.args = (cast, *node.args[1:])
