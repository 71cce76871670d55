"""How arrays by input name become the arguments of a JAX function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mlc.errors import SourceError, UsageError, foreign


@dataclass(frozen=True)
class Slot:
    """The place of one array in the arguments, by input name."""

    name: str


@dataclass(frozen=True)
class JaxBinding:
    """The arguments of a call as pytrees with slots, and the input names in the order of the parameters."""

    signature: inspect.Signature
    arguments: Mapping[str, Any]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def call(self, function: Callable[..., Any], arrays: Mapping[str, Any]) -> Any:
        """Call a function with arrays by input name; returns what it returns."""
        filled = jax.tree.map(lambda leaf: arrays[leaf.name] if isinstance(leaf, Slot) else leaf, dict(self.arguments))
        bound = inspect.BoundArguments(self.signature, {name: filled[name] for name in self.arguments})
        return function(*bound.args, **bound.kwargs)


def bind(
    function: Callable[..., Any], name: str, example: Any, wanted: Collection[str]
) -> tuple[JaxBinding, dict[str, Any]]:
    """Return the call of a function and its example arrays by input name.

    Inputs are the arrays of the example in the order of the parameters, named by their paths. ``wanted`` names inputs
    that have a spec: those, and parameters without a default, are inputs where the example leaves them out. Other
    leaves of the example, such as a flag, are fixed.
    """
    with foreign(f"the signature of {name}"):
        signature = inspect.signature(function)
    given = {} if example is None else _arguments(signature, name, example)
    arrays: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.name in given:
            value = given[parameter.name]
            arguments[parameter.name] = _slotted(value, _root(signature, parameter, value), arrays, constants)
        elif parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        elif parameter.name in wanted:
            arguments[parameter.name] = Slot(parameter.name)
        elif parameter.default is parameter.empty:
            raise UsageError(
                f"the input {parameter.name!r} of {name} has neither an example nor a spec",
                f"add --input '{parameter.name}=float32[...]', or return (function, example arrays)",
            )
    names = tuple(leaf.name for leaf in jax.tree.leaves([*arguments.values()]) if isinstance(leaf, Slot))
    if not names:
        raise SourceError(f"{name} takes no array as input", "give a function of arrays, with an example of each")
    notes = tuple(f"the argument {path} = {value!r} is fixed in the model" for path, value in constants.items())
    return JaxBinding(signature, arguments, names, notes), arrays


def path_of(keys: Any, root: str = "") -> str:
    """Return the place of a leaf in a pytree as a name: ``hidden.0``."""
    path = jax.tree_util.keystr(keys, simple=True, separator=".")
    return f"{root}.{path}" if root and path else root or path


def _slotted(value: Any, root: str, arrays: dict[str, Any], constants: dict[str, Any]) -> Any:
    """Return a pytree with each array replaced by its slot; arrays and other leaves are collected by path."""

    def slot(keys: Any, leaf: Any) -> Any:
        path = path_of(keys, root)
        if not isinstance(leaf, np.ndarray | jax.Array):
            constants[path] = leaf
            return leaf
        arrays[path] = leaf
        return Slot(path)

    return jax.tree_util.tree_map_with_path(slot, value)


def _root(signature: inspect.Signature, parameter: inspect.Parameter, value: Any) -> str:
    """Return what names of a parameter's arrays begin with: nothing for keywords and for a lone dict."""
    lone = len(signature.parameters) == 1 and isinstance(value, Mapping)
    return "" if lone or parameter.kind is parameter.VAR_KEYWORD else parameter.name


def _arguments(signature: inspect.Signature, name: str, example: Any) -> dict[str, Any]:
    """Return the example, an array, a tuple or a dict by parameter name, as arguments by parameter name."""
    args: tuple[Any, ...] = (example,)
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping) and _are_keywords(signature, example):
        args, kwargs = (), dict(example)
    elif isinstance(example, list | tuple) and not hasattr(example, "_fields"):
        args = tuple(example)
    try:
        return dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError as unfit:
        raise SourceError(
            f"the example does not fit {name}{signature}: {unfit}", "give one example for each input"
        ) from unfit


def _are_keywords(signature: inspect.Signature, example: Mapping[Any, Any]) -> bool:
    parameters = signature.parameters.values()
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return free or {str(key) for key in example} <= {parameter.name for parameter in parameters}
