"""What decides an export, as one digest: the state, the code, the versions and the specs."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.errors import SourceError, foreign
from mlc.machine import PACKAGES, installed
from mlc.references import PRIVATE, code_parts, is_installed, loaded_files
from mlc.sources.original import Original
from mlc.types import Sizes

if TYPE_CHECKING:
    from torch import nn

TAKE_PART = (*PACKAGES, "transformers", "keras", "torchao")
"""Distributions of which another version may export otherwise."""


def fingerprint(original: Original, traced: Sizes, opset: int | None) -> str | None:
    """Return the sha256 of all that decides how a torch module is exported.

    None for what is no torch module, and for one whose attributes cannot be looked at.

    Parameters and buffers come in by the original's own digest, other attributes by their values; code by the bytes of
    every loaded Python file outside installed packages, and by what the module's classes hold in memory, which may be
    older than their files.
    """
    module = getattr(original, "module", None)
    if module is None:
        return None
    hashed = hashlib.sha256()
    with contextlib.suppress(SourceError), foreign("looking at the module's attributes"):
        for part in _parts(original, module, traced, opset):
            hashed.update(len(part).to_bytes(8, "big"))
            hashed.update(part)
        return hashed.hexdigest()
    return None


def _parts(original: Original, module: nn.Module, traced: Sizes, opset: int | None) -> Iterator[bytes]:
    yield f"{sys.version} {original.exporter} {opset}".encode()
    yield from (f"{package} {installed(package)}".encode() for package in TAKE_PART)
    yield _own_code()
    yield original.digest.encode()
    yield repr((original.signature, sorted(traced.items()))).encode()
    yield repr(getattr(original, "binding", None)).encode()
    for name, array in original.example.items():
        yield name.encode()
        yield from _array(array)
    for name, part in module.named_modules():
        yield name.encode()
        yield from _attributes(vars(part))
    for kind in sorted(
        {type(part) for part in module.modules()}, key=lambda kind: (kind.__module__, kind.__qualname__)
    ):
        yield from _class(kind)
    for file in sorted(loaded_files()):
        yield from (str(file).encode(), file.read_bytes() if file.is_file() else b"")


def _attributes(values: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the attributes of a module that are neither parameters, buffers nor submodules."""
    own = {"_parameters", "_buffers", "_modules", "training"}
    for key, value in values.items():
        if key not in own:
            yield key.encode()
            yield from _value(value, {})


def _value(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield what a value is: numbers and texts as they are, other objects by what they hold, each once."""
    if isinstance(value, bool | int | float | complex | str | bytes | None):
        yield repr(value).encode()
    elif id(value) not in seen:
        seen[id(value)] = value  # held, since the id of what is gone is given again
        yield _name(type(value))
        if isinstance(value, Mapping):
            value = list(value.items())
        if isinstance(value, set | frozenset):
            value = sorted(value, key=repr)
        if isinstance(value, list | tuple):
            for each in value:
                yield from _value(each, seen)
        else:
            yield from _object(value, seen)


def _object(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield an array by its bytes, a function by its code, any other object by its attributes or its text."""
    if hasattr(value, "detach"):
        yield from _array(np.array(value.detach().cpu().tolist()))
    elif isinstance(value, np.ndarray):
        yield from _array(value)
    elif code := getattr(value, "__code__", None):
        yield from code_parts(code)
    elif hasattr(value, "named_modules"):
        return  # a module is looked at by itself
    elif hasattr(value, "__dict__"):
        yield from _value(vars(value), seen)
    elif " at 0x" not in repr(value):
        yield repr(value).encode()


def _array(array: Any) -> Iterable[bytes]:
    array = np.ascontiguousarray(array)
    return (f"{array.dtype} {array.shape}".encode(), array.tobytes())


def _class(kind: type) -> Iterator[bytes]:
    """Yield the methods of a class and its parents; the file of an installed one, since torch changes its classes."""
    for parent in kind.__mro__:
        yield _name(parent)
        file = Path(getattr(sys.modules.get(parent.__module__), "__file__", None) or "")
        if is_installed(file):
            yield repr((file.stat().st_size, file.stat().st_mtime_ns)).encode()
            continue
        for name, value in sorted(vars(parent).items()):
            if code := getattr(value, "__code__", None):
                yield name.encode()
                yield from code_parts(code)


def _name(kind: type) -> bytes:
    """Return a class by its module and name, without the number that a user's file is given each time it is loaded."""
    return f"{PRIVATE.sub('', kind.__module__)}.{kind.__qualname__}".encode()


@cache
def _own_code() -> bytes:
    """Return a digest of mlc's own files: what it does to an export changes with them, whatever the version says."""
    hashed = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        hashed.update(file.read_bytes())
    return hashed.digest()
