"""A call put into a program of torch.export, and what takes the place of another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves


def calls_of(program: torch.export.ExportedProgram, targets: Collection[Any]) -> list[Any]:
    """Return the calls of some operators, in branches and bodies of loops too."""
    return [node for node in nodes_of(program) if node.op == "call_function" and node.target in targets]


def nodes_of(program: torch.export.ExportedProgram) -> list[Any]:
    """Return all nodes, those in branches and bodies of loops too, each graph's in their order."""
    parts = (part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule))
    return [node for part in parts for node in part.graph.nodes]


def before(node: torch.fx.Node, target: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
    """Return a new call before a node, of the same line, with what it gives for what its inputs stand for."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args, kwargs)
    given: Any = torch.fx.map_arg(list(args), lambda one: one.meta["val"])
    fake = next(leaf for leaf in tree_leaves((given, node.meta["val"])) if isinstance(leaf, FakeTensor))
    with fake.fake_mode, enable_python_dispatcher():
        made.meta = {**node.meta, "val": target(*given, **kwargs)}
    return made


def size_of(node: torch.fx.Node, values: torch.fx.Node, axis: int) -> Any:
    """Return the size of an axis: the number, or a new call before a node that asks for it where it varies."""
    size = values.meta["val"].shape[axis]
    return size if isinstance(size, int) else before(node, torch.ops.aten.sym_size.int, values, axis)


def sizes_of(node: torch.fx.Node, values: torch.fx.Node) -> list[Any]:
    """Return the sizes of all axes, likewise."""
    return [size_of(node, values, axis) for axis in range(values.meta["val"].ndim)]


def replace(node: torch.fx.Node, other: torch.fx.Node) -> None:
    """Let what reads a node read another, and take the node out."""
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def of_dtype(node: torch.fx.Node, value: torch.fx.Node, dtype: torch.dtype) -> torch.fx.Node:
    """Return a value as one of a dtype: itself, or a new cast before a node."""
    same = value.meta["val"].dtype == dtype
    return value if same else before(node, torch.ops.aten._to_copy.default, value, dtype=dtype)  # noqa: SLF001
