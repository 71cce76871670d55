"""A call put into a program of torch.export."""

from __future__ import annotations

from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher


def before(node: torch.fx.Node, target: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
    """Return a new call before a node, of the same line, with what it gives for what its inputs stand for."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args, kwargs)
    given: Any = torch.fx.map_arg(list(args), lambda one: one.meta["val"])
    with node.meta["val"].fake_mode, enable_python_dispatcher():
        made.meta = {**node.meta, "val": target(*given, **kwargs)}
    return made
