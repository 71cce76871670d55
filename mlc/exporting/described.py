"""What a Python value computes, as bytes that are the same in every process."""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from mlc.errors import SourceError, kind_of
from mlc.installed import is_installed
from mlc.references import PRIVATE, code_names, code_parts
from mlc.sources.weights.tensors import hash_tensors

MLC = Path(__file__).parents[1]

LIMIT = 1_000_000
"""Parts of values; a module that hangs on more, such as a dataset, is not described."""

PARTS = ("_parameters", "_buffers", "_modules")

PLAIN = (int, float, complex, str, bytes)
"""What is told by its text."""

HOLDERS = (Mapping, list, tuple, deque, set, frozenset)
"""What is told by its items."""

OTHERWISE = frozenset({*PARTS, "training", "_compiled_call_impl"})
"""Attributes of a module that are described elsewhere, or that no export reads."""


class UndescribedError(SourceError):
    """A value that is not the same in every process, or that nothing says the contents of."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it holds {what}, which cannot be told from another")


class Description:
    """Takes values into a digest: numbers as they are, functions by their code and all that it names, objects by parts.

    What belongs to an installed package goes by its name. ``places`` names the modules that are described one by one.
    Raises UndescribedError for what cannot be told from another, such as an open file.
    """

    def __init__(self, hashed: hashlib._Hash, places: Mapping[int, str]) -> None:
        self._hashed = hashed
        self._places = places
        self._seen: dict[int, tuple[int, Any]] = {}  # values are held, since the id of what is gone is given again
        self._parts = 0
        self._kinds = self._describers()

    def note(self, *parts: bytes | str) -> None:
        """Take bytes into the digest, each with its length."""
        self._parts += len(parts)
        if self._parts > LIMIT:
            raise UndescribedError("too many values")
        for part in parts:
            written = part.encode(errors="surrogatepass") if isinstance(part, str) else part
            self._hashed.update(len(written).to_bytes(8, "big"))
            self._hashed.update(written)

    def module(self, path: str, part: nn.Module) -> None:
        """Take a module in: its class, its attributes, and under which names its parts are, tied ones too."""
        self.note("module", path, self._places[id(part)])
        self._type(type(part))
        for kind in PARTS:
            for key, value in vars(part)[kind].items():
                self.note(kind, key, "" if value is None else self._number(value))
        self.value({key: value for key, value in vars(part).items() if key not in OTHERWISE})

    def value(self, value: Any) -> None:
        """Take any value in."""
        if value is None or type(value) in (bool, *PLAIN):
            self.note(type(value).__name__, repr(value))
        elif id(value) in self._places:
            self.note("part", self._places[id(value)])
        elif id(value) in self._seen:
            self.note("again", str(self._seen[id(value)][0]))
        else:
            self._number(value)
            self._fresh(value)

    def _number(self, value: Any) -> str:
        """Return in which place a value was first seen."""
        return str(self._seen.setdefault(id(value), (len(self._seen), value))[0])

    def _fresh(self, value: Any) -> None:
        """Take in a value that was not seen before."""
        describe = next((describe for kinds, describe in self._kinds if isinstance(value, kinds)), None)
        if describe is not None:
            describe(value)
        else:
            self._object(value)

    def _describers(self) -> Sequence[tuple[type | tuple[type, ...], Callable[[Any], None]]]:
        """Return how to take in what is no plain object, by class; the first that fits is taken."""
        return (
            (type, self._type),
            (ModuleType, lambda module: self.note("package", _plain(module.__name__))),
            (FunctionType, self._function),
            (MethodType, lambda method: self._items("method", (method.__func__, method.__self__))),
            (functools.partial, lambda one: self._items("partial", (one.func, one.args, one.keywords))),
            (BuiltinFunctionType, self._builtin),
            ((staticmethod, classmethod), lambda one: self._items(type(one).__name__, (one.__func__,))),
            (property, lambda one: self._items("property", (one.fget, one.fset, one.fdel))),
            (weakref.ref, lambda one: self._items("reference", (one(),))),
            (logging.Logger, lambda one: self.note("logger", one.name)),
            (torch.fx.Graph, lambda graph: self.note("graph", graph.python_code("self").src)),
            (torch.Tensor, self._tensor),
            (np.ndarray, self._array),
        )

    def _items(self, kind: str, items: Iterable[Any]) -> None:
        listed = list(items)
        self.note(kind, str(len(listed)))
        for item in listed:
            self.value(item)

    def _function(self, function: FunctionType) -> None:
        """Take in a function: its code, what it keeps, and what its code may name in its module."""
        self.note("function", _plain(function.__module__ or ""), function.__qualname__)
        self._items("kept", (function.__defaults__, function.__kwdefaults__, vars(function)))
        self._items("cells", (cell.cell_contents for cell in function.__closure__ or () if _filled(cell)))
        if _belongs(Path(function.__code__.co_filename)):
            return
        self.note(*code_parts(function.__code__))
        names = code_names(function.__code__)
        for name in sorted(names & set(function.__globals__)):
            self._named(name, function.__globals__[name], names)

    def _named(self, name: str, value: Any, names: frozenset[str]) -> None:
        """Take in what a name stands for; of a module of the user's what the same code may read there."""
        self.note("name", name)
        self.value(value)
        if isinstance(value, ModuleType) and not _is_installed(value.__name__):
            for inner in sorted(names & set(vars(value))):
                self.note("in", inner)
                self.value(vars(value)[inner])

    def _builtin(self, function: Any) -> None:
        self.note("builtin", function.__module__ or "", function.__qualname__)
        if not isinstance(function.__self__, ModuleType):
            self.value(function.__self__)

    def _type(self, kind: type) -> None:
        """Take in a class: its parents, and of one that is not installed all that its body defines."""
        if id(kind) in self._seen and self._seen[id(kind)][1] is kind:
            self.note("class again", str(self._seen[id(kind)][0]))
            return
        self._number(kind)
        self.note("class", f"{_plain(kind.__module__)}.{kind.__qualname__}")
        for parent in kind.__bases__:
            self._type(parent)
        if not _is_installed(kind.__module__):
            for name, value in sorted(vars(kind).items()):
                if not name.startswith(("__", "_abc_")) or isinstance(value, FunctionType):
                    self.note(name)
                    self.value(value)

    def _tensor(self, tensor: torch.Tensor) -> None:
        """Take in a tensor by its bytes; one of a class of its own by the tensors inside."""
        if type(tensor) in (torch.Tensor, nn.Parameter, nn.Buffer):
            inside = hashlib.sha256()
            hash_tensors(inside, [("", tensor)])
            self.note("tensor", inside.digest())
            return
        if not hasattr(tensor, "__tensor_flatten__"):
            raise UndescribedError(kind_of(tensor))
        names, context = tensor.__tensor_flatten__()
        self._type(type(tensor))
        self._items("tensor of", [context, *(getattr(tensor, name) for name in names)])

    def _array(self, array: np.ndarray) -> None:
        if array.dtype.hasobject:
            self._items(f"array {array.shape}", array.reshape(-1).tolist())
        else:
            self.note("array", f"{array.dtype} {array.shape}", np.ascontiguousarray(array).tobytes())

    def _object(self, value: Any) -> None:
        """Take in an object by its items and attributes; one without any as pickle would take it apart."""
        self._type(type(value))
        if isinstance(value, Mapping):
            self._items("mapping", (part for pair in list(value.items()) for part in pair))
        elif isinstance(value, list | tuple | deque):
            self._items("sequence", value)
        elif isinstance(value, set | frozenset):
            self._set(value)
        elif isinstance(value, PLAIN):
            self.note(next(kind.__repr__(value) for kind in PLAIN if isinstance(value, kind)))
        attributes = _attributes(value)
        if attributes is not None:
            self._items("attributes", (part for pair in attributes.items() for part in pair))
        elif not isinstance(value, (*HOLDERS, *PLAIN)):
            self._taken_apart(value)

    def _set(self, values: Iterable[Any]) -> None:
        """Take in the members in an order that does not hang on the process."""
        told = []
        for value in values:
            inside = hashlib.sha256()
            Description(inside, self._places).value(value)
            told.append(inside.digest())
        self.note("set", *sorted(told))

    def _taken_apart(self, value: Any) -> None:
        try:
            parts: Any = value.__reduce_ex__(2)
        except Exception as refused:
            raise UndescribedError(kind_of(value)) from refused
        if isinstance(parts, str):
            self.note("name", parts)
        else:
            self._items("made", (list(part) if hasattr(part, "__next__") else part for part in parts))


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return what an object holds by name, or None where its class has no place for attributes."""
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    if not slots and not hasattr(value, "__dict__"):
        return None
    return {name: getattr(value, name) for name in slots} | dict(getattr(value, "__dict__", {}))


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _filled(cell: Any) -> bool:
    """Whether a variable of an outer function has a value yet."""
    try:
        cell.cell_contents  # noqa: B018 - raises where there is none
    except ValueError:
        return False
    return True


def _plain(module: str) -> str:
    """Return a module's name without the number that a user's file is given each time it is loaded."""
    return PRIVATE.sub("", module)


def _is_installed(module: str) -> bool:
    """Whether a module is part of Python or of an installed package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return module in sys.builtin_module_names or (file is not None and _belongs(Path(file)))


def _belongs(file: Path) -> bool:
    return is_installed(file) or MLC in file.parents
