"""What counts as JAX, and how the modules that are written for it compute in inference."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from mlc.errors import SourceError


def is_jax(value: object, example: Any = None) -> bool:
    """Whether a callable is JAX: a module of its libraries, a jitted function, or any whose example holds its arrays.

    Nothing is imported: what is JAX has imported it.
    """
    jax = sys.modules.get("jax")
    if jax is None or not callable(value) or isinstance(value, type):
        return False
    modules = (_module("flax.nnx"), _module("flax.linen"), _module("equinox"))
    if isinstance(value, (*filter(None, modules), jax.stages.Wrapped)):
        return True
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(example))


def in_inference(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """Return what a function computes in inference, and a note where it was set to train; it is left as it was found.

    Raises SourceError for a module that holds no weights.
    """
    if _is(function, "flax.linen"):
        raise SourceError(
            f"{type(function).__name__} is a module of flax.linen, which has no weights in it",
            "return lambda x: module.apply(variables, x), with an example",
        )
    if _is(function, "flax.nnx"):
        return _nnx(function)
    if _is(function, "equinox"):
        equinox = sys.modules["equinox"]
        inferring = equinox.nn.inference_mode(function)
        return inferring, _note(_flags(function) != _flags(inferring))
    return function, ()


def _nnx(module: Any) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """Return the call of a copy in evaluation mode: what a call writes into the copy is gone after it."""
    nnx = sys.modules["flax.nnx"]

    def copied() -> Any:
        copy = nnx.clone(module)
        copy.eval()
        return copy

    @functools.wraps(type(module).__call__)
    def call(*args: Any, **kwargs: Any) -> Any:
        return copied()(*args, **kwargs)

    call.__signature__ = inspect.signature(module)  # type: ignore[attr-defined]
    return call, _note(nnx.split(copied())[0] != nnx.split(module)[0])


def _note(changed: bool) -> tuple[str, ...]:
    return ("the module was in training mode; exported in inference mode",) if changed else ()


def _flags(module: Any) -> list[bool]:
    return [leaf for leaf in sys.modules["jax"].tree.leaves(module) if isinstance(leaf, bool)]


def _module(package: str) -> type | None:
    """Return the class of a package's modules, where the package is imported."""
    kind = getattr(sys.modules.get(package), "Module", None)
    return kind if isinstance(kind, type) else None


def _is(value: object, package: str) -> bool:
    kind = _module(package)
    return kind is not None and isinstance(value, kind)
