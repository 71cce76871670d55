"""What an object of the user's holds: tensors, containers and plain objects inside of each other."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

CONTAINERS = {dict, list, set, deque, OrderedDict, defaultdict}
"""What things are collected in."""

DEPTH = 4
"""How deep things are looked for inside of each other."""

MANY = 1000
"""Things in one container among which no others are looked for: a vocabulary, no state."""


def is_plain(value: object) -> bool:
    """Whether something is an object of the user's with attributes of its own, and none of torch or of Python."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, nn.Module | torch.Tensor | type | ModuleType | FunctionType | MethodType)
        and type(value).__module__.partition(".")[0] not in {"torch", "builtins", "functools"}
    )


def within(value: object, seen: set[int], depth: int = 0) -> Iterator[Any]:
    """Yield a value and whatever it holds that a call may change: tensors, containers and plain objects.

    ``seen`` holds the ids of what was yielded before, and is added to.
    """
    if id(value) in seen:
        return
    if isinstance(value, torch.Tensor):
        yield value
        return
    contents: Collection[object] = ()
    if type(value) in CONTAINERS or isinstance(value, tuple):
        contents = value.values() if isinstance(value, dict) else value  # type: ignore[assignment]
    elif is_plain(value):
        contents = vars(value).values()
    else:
        return
    seen.add(id(value))
    if not isinstance(value, tuple):
        yield value
    if depth < DEPTH and len(contents) <= MANY:
        for one in contents:
            yield from within(one, seen, depth + 1)
