"""What torch.onnx cannot take of a program of torch.export, written so that it can."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols


def mend(program: torch.export.ExportedProgram) -> None:
    """Write all of it anew in the program itself."""
    promote_subtrahends(program)
    remainders_by_sizes(program)
    unsqueeze_complex(program)
    all_for_asserted(program)
    without_idle_squeezes(program)
    means_of_what_may_be_none(program)
    program.graph_module.recompile()


def without_asserts(program: torch.export.ExportedProgram) -> None:
    """Take guards that were put off out of the graph: all that they say has been evaluated."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):  # noqa: SLF001
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code(is_impure_node=_is_needed)
    program.graph_module.recompile()


def _is_needed(node: torch.fx.Node) -> bool:
    """Whether a node does something beside what it returns: vmap enters and leaves its levels in nodes of their own."""
    return node.is_impure() or getattr(node.target, "__module__", "") == "torch._functorch.predispatch"


def promote_subtrahends(program: torch.export.ExportedProgram) -> None:
    """Cast the integers of ``1.0 - mask`` to the dtype of the difference: torch.onnx takes the number for a tensor."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.rsub.Scalar):
        subtrahend, dtype = node.args[0], node.meta["val"].dtype
        if subtrahend.meta["val"].dtype == dtype:
            continue
        cast = _before(node, torch.ops.aten._to_copy.default, subtrahend, dtype=dtype)  # noqa: SLF001
        node.args = (cast, *node.args[1:])


def remainders_by_sizes(program: torch.export.ExportedProgram) -> None:
    """Make a tensor of the size in ``index % x.shape[0]``: torch.onnx takes it for a number that is known."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.remainder.Scalar):
        divided, size = node.args
        if not isinstance(size, torch.fx.Node):
            continue
        divisor = _before(node, torch.ops.aten.scalar_tensor.default, size, dtype=divided.meta["val"].dtype)
        node.target, node.args = torch.ops.aten.remainder.Tensor, (divided, divisor)


def unsqueeze_complex(program: torch.export.ExportedProgram) -> None:
    """Insert an axis into complex numbers by their two real parts: torch.onnx writes it of real numbers alone."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.unsqueeze.default):
        numbers, axis = node.args
        value = numbers.meta["val"]
        if not value.is_complex():
            continue
        place = axis if axis >= 0 else axis + value.ndim + 1
        parts = _before(node, torch.ops.aten.view_as_real.default, numbers)
        longer = _before(node, torch.ops.aten.unsqueeze.default, parts, place)
        node.target, node.args = torch.ops.aten.view_as_complex.default, (longer,)


def all_for_asserted(program: torch.export.ExportedProgram) -> None:
    """Write what asserts ask of a whole mask as ``all`` of it, which is the same and has a counterpart in ONNX."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._is_all_true.default):  # noqa: SLF001
        node.target = torch.ops.aten.all.default


def without_idle_squeezes(program: torch.export.ExportedProgram) -> None:
    """Take out squeezes of an axis that is not one: torch leaves it as it is, and ONNX's Squeeze refuses it."""
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.squeeze.dim):
        squeezed = node.args[0]
        if node.meta["val"].ndim == squeezed.meta["val"].ndim > 0:
            node.replace_all_uses_with(squeezed)
            program.graph.erase_node(node)


def means_of_what_may_be_none(program: torch.export.ExportedProgram) -> None:
    """Divide a sum by how many there are, where values say how many: the mean of nothing is NaN, ReduceMean's is 0."""
    aten = torch.ops.aten
    for node in [node for node in program.graph.nodes if node.target in {aten.mean.dim, aten.mean.default}]:
        values = node.args[0]
        shape = values.meta["val"].shape
        given = node.args[1] if node.target is aten.mean.dim and node.args[1] else range(len(shape))
        axes = sorted(axis % len(shape) for axis in given)
        if not any(free_unbacked_symbols(shape[axis]) for axis in axes):
            continue
        dtype = node.meta["val"].dtype
        wide = _before(node, aten._to_copy.default, values, dtype=dtype)  # noqa: SLF001
        mean = _before(node, aten.sum.dim_IntList, wide, axes, *node.args[2:])
        for axis in axes:
            size = _before(node, aten.sym_size.int, values, axis)
            count = _before(node, aten.scalar_tensor.default, size, dtype=dtype)
            mean = _before(node, aten.div.Tensor, mean, count)
        node.replace_all_uses_with(mean)
        program.graph.erase_node(node)


def _before(node: torch.fx.Node, target: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
    """Return a new call before a node, of the same line, with what it gives for what its inputs stand for."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args, kwargs)
    given = [one.meta["val"] if isinstance(one, torch.fx.Node) else one for one in args]
    with node.meta["val"].fake_mode:
        made.meta = {**node.meta, "val": target(*given, **kwargs)}
    return made
