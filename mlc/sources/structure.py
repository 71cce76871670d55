"""Nested inputs and outputs as flat lists of named tensors, and back.

Names are paths: dict keys, fields of dataclasses and named tuples, and tuple indexes, joined by dots.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlc.errors import SourceError


@dataclass(frozen=True)
class Slot:
    """The place of one tensor in a template, by input name."""

    name: str


def children(value: Any) -> list[tuple[str, Any]] | None:
    """Return the named parts of a container in order, or None where the value is no container."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Slot):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return [(str(index), part) for index, part in enumerate(value)]
    return None


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every leaf that is not None with its path; a value that is no container has the path it is given."""
    parts = children(value)
    if parts is None:
        if value is not None:
            yield path, value
        return
    for name, part in parts:
        yield from leaves(part, f"{path}.{name}" if path else name)


def output_leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of what a module returned: ``output``, ``output.0``, or the names that the module gives.

    What is called nothing, by the key "", is ``output`` too.
    """
    named = isinstance(value, Mapping) or dataclasses.is_dataclass(value) or hasattr(value, "_fields")
    for path, leaf in leaves(value, "" if named else "output"):
        yield path or "output", leaf


def template(value: Any, path: str, tensors: dict[str, torch.Tensor], constants: dict[str, Any]) -> Any:
    """Return the value with each tensor replaced by its Slot; tensors and other leaves are collected by path."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value.copy())
    if isinstance(value, torch.Tensor):
        if not path:
            raise SourceError('a tensor of the example has the key ""', "give it another key: it is an input's name")
        if tensors.setdefault(path, value) is not value:
            raise SourceError(f"two tensors of the example are called {path}", "give them other keys")
        return Slot(path)
    parts = children(value)
    if parts is None:
        if value is not None:
            constants[path] = value
        return value
    filled = [template(part, f"{path}.{name}" if path else name, tensors, constants) for name, part in parts]
    return rebuild(value, filled)


def fill(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return a template with each Slot replaced by the tensor of its name."""
    if isinstance(tree, Slot):
        return tensors[tree.name]
    parts = children(tree)
    return tree if parts is None else rebuild(tree, [fill(part, tensors) for _, part in parts])


def rebuild(value: Any, parts: list[Any]) -> Any:
    """Return a container of the value's kind with other parts, in the order of ``children``.

    Nothing of a class is run that may look at what is in it: places are no tensors.
    """
    if isinstance(value, MutableMapping):
        filled = copy.copy(value)
        for key, part in zip(value, parts, strict=True):
            filled[key] = part
        return filled
    if isinstance(value, Mapping):
        return type(value)(dict(zip(value, parts, strict=True)))  # type: ignore[call-arg]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field, part in zip(dataclasses.fields(value), parts, strict=True):
            object.__setattr__(made, field.name, part)
        return made
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(parts)
    return type(value)(parts)
