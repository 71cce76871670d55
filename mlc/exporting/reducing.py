"""What a call that reduces, as a mean or a variance does, is given."""

from __future__ import annotations

import operator
from typing import Any

import torch


def arguments_of(node: torch.fx.Node) -> dict[str, Any]:
    """Return what a call is given, by the names of its operator's schema; what it leaves to a default is not in it."""
    target: Any = node.target
    names = (one.name for one in target._schema.arguments)  # noqa: SLF001
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def reduced(node: torch.fx.Node) -> tuple[torch.fx.Node, list[int], bool]:
    """Return what a call reduces, over which axes, and whether it keeps them."""
    given = arguments_of(node)
    values: Any = node.args[0]
    rank = values.meta["val"].ndim
    axes = sorted(axis % rank for axis in given.get("dim") or range(rank)) if rank else []
    return values, axes, bool(given.get("keepdim"))


def parts_of(pair: torch.fx.Node) -> list[torch.fx.Node]:
    """Return what takes one result of a call that gives two."""
    return [user for user in pair.users if user.target is operator.getitem]
