"""What an object of the user's holds: tensors, containers and plain objects inside of each other."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

DEPTH = 4
"""How deep things are looked for inside of each other."""

MANY, MOST = 1000, 10_000
"""Things in one container, and in all, among which no more are looked for than tensors: a vocabulary, no state."""

PLAIN_DATA = (bool, int, float, complex, str, bytes, type(None))

FOREIGN = (sys.stdlib_module_names | {"torch"}) - {"collections", "types", "__main__"}
"""Where classes come from whose objects are no state of a model: loggers, locks, functions."""

Seen: TypeAlias = dict[int, int]
"""How deep things were found, by their ids."""


def container(value: object) -> Any:
    """Return which of Python's containers something is, a subclass too, or None: its methods do what they should."""
    return next((kind for kind in (OrderedDict, dict, list, set, deque) if isinstance(value, kind)), None)


def attributes(value: object) -> dict[str, Any] | None:
    """Return the attributes of a plain object of the user's, or None of what is none."""
    if isinstance(value, nn.Module | torch.Tensor | type | ModuleType | FunctionType | MethodType):
        return None
    if type(value).__module__.partition(".")[0] in FOREIGN:
        return None
    try:
        held = vars(value)
    except Exception:  # noqa: BLE001 - of a proxy whose object is gone, or a property of the user's
        return None
    return held if type(held) is dict else None


def within(value: object, seen: Seen, depth: int = 0) -> Iterator[Any]:
    """Yield a value and whatever it holds that a call may change, each once: tensors, containers, plain objects.

    ``seen`` is added to.
    """
    if isinstance(value, PLAIN_DATA) or seen.get(id(value), DEPTH + 1) <= depth:
        return
    kind, own = container(value), attributes(value)
    if kind is None and own is None and not isinstance(value, torch.Tensor | tuple):
        return
    new = id(value) not in seen
    seen[id(value)] = depth
    if new and not isinstance(value, tuple):
        yield value
    if isinstance(value, torch.Tensor) or depth == DEPTH:
        return
    for contents in (_contents(value, kind), [] if own is None else own.values()):
        few = len(contents) <= MANY and len(seen) <= MOST
        for one in contents:
            if few or isinstance(one, torch.Tensor):
                yield from within(one, seen, depth + 1)


def _contents(value: Any, kind: Any) -> Collection[Any]:
    if isinstance(value, dict):
        found: Collection[Any] = kind.values(value)
        return found
    return value if kind is not None or isinstance(value, tuple) else ()


def taken_in(hook: object, depth: int = 0) -> Iterator[object]:
    """Yield what a function, a method, a partial call or an object that is called knows and may collect things in."""
    if depth > DEPTH:
        return
    if isinstance(hook, partial):
        yield from (*hook.args, *hook.keywords.values())
        yield from taken_in(hook.func, depth + 1)
    elif isinstance(hook, MethodType):
        yield hook.__self__
        yield from taken_in(hook.__func__, depth + 1)
    elif isinstance(hook, FunctionType):
        around = [cell.cell_contents for cell in hook.__closure__ or () if _is_filled(cell)]
        around += [hook.__globals__[name] for name in hook.__code__.co_names if name in hook.__globals__]
        for one in (*around, *(hook.__defaults__ or ()), *(hook.__kwdefaults__ or {}).values()):
            yield one
            if isinstance(one, FunctionType | MethodType | partial):
                yield from taken_in(one, depth + 1)
    else:
        yield hook


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
