"""What an object of the user's holds: tensors, containers and plain objects inside of each other."""

from __future__ import annotations

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

FOREIGN = frozenset(
    {
        "_thread", "asyncio", "builtins", "concurrent", "contextlib", "enum", "functools", "inspect", "io", "logging",
        "mlc", "multiprocessing", "pathlib", "queue", "random", "re", "socket", "threading", "torch", "tqdm", "weakref",
    }
)  # fmt: skip
"""Where classes come from whose objects are no state of a model: loggers, locks, functions, bars of progress."""

Seen: TypeAlias = dict[int, int]
"""How deep things were found, by their ids."""


def container(value: object) -> Any:
    """Return which of Python's containers something is, a subclass too, or None: its methods do what they should."""
    return next((kind for kind in (OrderedDict, dict, list, set, deque) if issubclass(type(value), kind)), None)


def attributes(value: object) -> dict[str, Any] | None:
    """Return the attributes of a plain object of the user's, or None of what is none."""
    if issubclass(type(value), nn.Module | torch.Tensor | type | ModuleType | FunctionType | MethodType):
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
    if issubclass(type(value), PLAIN_DATA) or seen.get(id(value), DEPTH + 1) <= depth:
        return
    kind, own = container(value), attributes(value)
    is_tensor, is_tuple = issubclass(type(value), torch.Tensor), issubclass(type(value), tuple)
    if kind is None and own is None and not is_tensor and not is_tuple:
        return
    new = id(value) not in seen
    seen[id(value)] = depth
    if new and not is_tuple:
        yield value
    if is_tensor or depth == DEPTH:
        return
    for contents in (_contents(value, kind), [] if own is None else own.values()):
        few = len(contents) <= MANY and len(seen) <= MOST
        for one in contents:
            if few or issubclass(type(one), torch.Tensor):
                yield from within(one, seen, depth + 1)


def _contents(value: Any, kind: Any) -> Collection[Any]:
    if issubclass(type(value), dict):
        found: Collection[Any] = kind.values(value)
        return found
    return value if kind is not None or issubclass(type(value), tuple) else ()


def taken_in(hook: object, known: set[int] | None = None) -> Iterator[object]:
    """Yield what a function, a method, a partial call or an object that is called knows and may collect things in."""
    seen = set() if known is None else known
    if id(hook) in seen:
        return
    seen.add(id(hook))
    if isinstance(hook, partial):
        yield from (*hook.args, *hook.keywords.values())
        yield from taken_in(hook.func, seen)
    elif isinstance(hook, MethodType):
        yield hook.__self__
        yield from taken_in(hook.__func__, seen)
    elif isinstance(hook, FunctionType):
        around = [cell.cell_contents for cell in hook.__closure__ or () if _is_filled(cell)]
        around += [hook.__globals__[name] for name in hook.__code__.co_names if name in hook.__globals__]
        for one in (*around, *(hook.__defaults__ or ()), *(hook.__kwdefaults__ or {}).values()):
            if issubclass(type(one), FunctionType | MethodType | partial):
                yield from taken_in(one, seen)
            else:
                yield one
    else:
        yield hook


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
