"""Branches of ``torch.cond``: torch compiles them to find the weights that they read, and what varies in them.

What they read of one tensor, such as ``x`` and ``x.T``, it hands to them as several, and then refuses them as one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import torch
from torch.onnx._internal.exporter import _constants, _ir_passes

from mlc.errors import SourceError
from mlc.exporting.errors import line_of
from mlc.exporting.inserting import before, calls_of, nodes_of, replace
from mlc.exporting.replaced import replaced

DEEPER = frozenset({getattr(torch.ops.higher_order, name) for name in ("cond", "while_loop", "scan")})
"""Calls that have graphs of their own."""

MANY = 1000
"""The numbers from which on a tensor is not made of them one by one."""


def compiled_branches() -> AbstractContextManager[None]:
    """Trace ``torch.cond`` inside the block as torch does, where all else that is compiled runs as it was written."""
    return replaced(torch, "cond", _compiled)


def _compiled(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def cond(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # a branch in a branch
            return own(*args, **kwargs)
        with torch.compiler.set_stance("default"):
            return own(*args, **kwargs)

    return cond


def nested_bodies() -> AbstractContextManager[None]:
    """Let torch.onnx write a branch or a loop in the body of a loop: it takes their functions for another version."""
    return replaced(_ir_passes, "_maybe_set_opset_version", _of_one_version)


def _of_one_version(own: Callable[..., Any]) -> Callable[..., Any]:
    def note(imports: dict[str, int], domain: str, version: int | None) -> None:
        own(imports, domain, 1 if domain == _constants.LOCAL_FUNCTION_DOMAIN else version)

    return note


def answers_in_tuples(program: torch.export.ExportedProgram) -> None:
    """Let branches that give one tensor give a tuple of it, as torch.onnx reads them.

    They do already where torch compiled them, as under the name ``torch.cond``; under another one they were traced.
    """
    for node in calls_of(program, {torch.ops.higher_order.cond}):
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            continue
        for branch in node.args[1:3]:
            module = node.graph.owning_module.get_submodule(branch.target)
            output = module.graph.output_node()
            output.args = ((output.args[0],),)
            module.recompile()
        with node.graph.inserting_after(node):
            first = node.graph.call_function(operator.getitem, (node, 0))
        first.meta = dict(node.meta)
        node.replace_all_uses_with(first, delete_user_cb=lambda user, first=first: user is not first)
        node.meta["val"] = (value,)


def operands_apart(program: torch.export.ExportedProgram) -> None:
    """Copy what a branch or a body is given beside another view of the same memory."""
    for node in calls_of(program, DEEPER):
        held: set[int] = set()

        def apart(operand: torch.fx.Node, node: torch.fx.Node = node, held: set[int] = held) -> torch.fx.Node:
            value = operand.meta.get("val")
            if not isinstance(value, torch.Tensor):
                return operand
            memory = value.untyped_storage()._cdata  # noqa: SLF001 - torch has no public name for it
            if memory not in held:
                held.add(memory)
                return operand
            return before(node, torch.ops.aten.clone.default, operand)

        node.args = torch.fx.map_arg(node.args, apart)


def numbers_inside(program: torch.export.ExportedProgram) -> None:
    """Make what ``torch.tensor([...])`` gives in a branch or a body of its numbers.

    There it is a tensor that the graph holds, which torch cannot trace once more. Raises SourceError where it is large.
    """
    aten = torch.ops.aten
    for node in nodes_of(program):
        held = getattr(node.graph.owning_module, node.target, None) if node.op == "get_attr" else None
        if not isinstance(held, torch.Tensor) or node.graph is program.graph:
            continue
        if held.numel() > MANY:
            message = f"a tensor of {held.numel():,} numbers is made in a branch or a loop at {line_of(node)}"
            raise SourceError(message, "make it in __init__, as a buffer, or before the branch or loop")
        setting: dict[str, Any] = {"dtype": held.dtype, "device": held.device}
        parts = [before(node, aten.scalar_tensor.default, number, **setting) for number in held.flatten().tolist()]
        whole = before(node, aten.stack.default, parts) if parts else before(node, aten.full.default, [0], 0, **setting)
        replace(node, before(node, aten.view.default, whole, list(held.shape)))
        delattr(node.graph.owning_module, node.target)


def answers_alike(program: torch.export.ExportedProgram) -> None:
    """Let both branches give what is laid out alike: torch asks for that, and what is written anew may be turned."""
    for node in calls_of(program, {torch.ops.higher_order.cond}):
        for branch in node.args[1:3]:
            graph = node.graph.owning_module.get_submodule(branch.target).graph
            output = graph.output_node()
            with graph.inserting_before(output):
                output.args = torch.fx.map_arg(output.args, _contiguous)


def _contiguous(value: torch.fx.Node) -> torch.fx.Node:
    if not isinstance(value.meta.get("val"), torch.Tensor):
        return value
    layout: dict[str, Any] = {"memory_format": torch.contiguous_format}
    copied = value.graph.call_function(torch.ops.aten.clone.default, (value,), layout)
    copied.meta = dict(value.meta)
    return copied
