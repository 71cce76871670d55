"""How arrays by input name become the arguments of a module's forward."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mlc.errors import SourceError, UsageError, foreign, kind_of
from mlc.sources.held import within
from mlc.sources.specs import unknown_input
from mlc.sources.structure import Slot, children, fill, template


@dataclass(frozen=True)
class Binding:
    """The arguments of a call as a template, and the input names in the order of forward's parameters."""

    signature: inspect.Signature
    arguments: Mapping[str, Any]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def call(self, module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> Any:
        """Call a module with tensors by input name; returns what it returns."""
        filled = {name: fill(tree, tensors) for name, tree in self.arguments.items()}
        bound = inspect.BoundArguments(self.signature, filled)
        return module(*bound.args, **bound.kwargs)


def bind(module: nn.Module, example: Any, wanted: Collection[str]) -> tuple[Binding, dict[str, torch.Tensor]]:
    """Return the call of a module and its example tensors by input name.

    Inputs are forward's tensors in the order of its parameters. ``wanted`` names inputs that have a spec: those and the
    parameters without a default are inputs even where the example leaves them out.
    """
    signature = signature_of(module)
    given = {} if example is None else _arguments(module, signature, example)
    tensors: dict[str, torch.Tensor] = {}
    constants: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    names: list[str] = []
    for name, parameter in signature.parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        value = given.get(name)
        if value is not None:
            arguments[name] = template(value, _root(signature, parameter, value), tensors, constants)
            names = [*names, *(key for key in tensors if key not in names)]
        elif not variadic and (name in wanted or (name not in given and parameter.default is parameter.empty)):
            if name not in wanted:
                _refuse_unknown(wanted, signature)
                raise UsageError(
                    f"the input {name!r} of {type(module).__name__} has neither an example nor a spec",
                    f"add --input '{name}=float32[...]', or return (module, example inputs)",
                )
            arguments[name] = Slot(name)
            names.append(name)
        elif name in given:
            arguments[name] = None
    if not names:
        raise _no_inputs(module, signature)
    for name, value in constants.items():
        if any(isinstance(held, torch.Tensor) for held in within(value, {})):
            raise SourceError(
                f"{name} of the example is {kind_of(value)}, whose tensors would be constants of the model",
                "give a module that takes them as inputs, and makes that object of them in forward",
            )
    notes = tuple(f"the argument {name} = {value!r} is fixed in the model" for name, value in constants.items())
    return Binding(signature, arguments, tuple(names), notes), tensors


def signature_of(module: nn.Module) -> inspect.Signature:
    """Return the signature of forward; that of the one module inside where forward hands on whatever it is given."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # a builtin has none
        signature = inspect.signature(lambda *args, **kwargs: (args, kwargs))
    inside = list(module.children())
    if (
        len(inside) != 1
        or not signature.parameters
        or any(
            parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            for parameter in signature.parameters.values()
        )
    ):
        return signature
    return signature_of(inside[0])


def _refuse_unknown(wanted: Collection[str], signature: inspect.Signature) -> None:
    """Raise UsageError for a spec that names nothing that forward takes."""
    for name in wanted:
        if name.partition(".")[0] not in signature.parameters:
            raise unknown_input(name, tuple(signature.parameters))


def _no_inputs(module: nn.Module, signature: inspect.Signature) -> SourceError:
    kind = type(module).__name__
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
        return SourceError(
            f"nothing says which inputs forward{signature} of {kind} takes",
            "return (module, example inputs) with a tuple, or write forward with named parameters",
        )
    return SourceError(f"{kind} takes no tensor as input", "give a module with an input")


def _root(signature: inspect.Signature, parameter: inspect.Parameter, value: Any) -> str:
    """Return what names of a parameter's tensors begin with: nothing for keywords and for a lone dict."""
    lone = len(signature.parameters) == 1 and isinstance(value, Mapping)
    return "" if lone or parameter.kind is parameter.VAR_KEYWORD else parameter.name


def _arguments(module: nn.Module, signature: inspect.Signature, example: Any) -> dict[str, Any]:
    """Return the example as arguments by parameter name."""
    kind = type(module).__name__
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    if isinstance(example, torch.Tensor | np.ndarray):
        args = [example]
    elif isinstance(example, Mapping):
        if _are_keywords(signature, example):
            kwargs = dict(example)
        elif len(_required(signature)) == 1:
            args = [example]
        else:
            unknown = next(str(key) for key in example if key not in signature.parameters)
            raise SourceError(
                f"the example has the key {unknown!r}, which forward{signature} of {kind} does not take",
                "use the names of forward's parameters",
            )
    elif isinstance(example, list | tuple) and not hasattr(example, "_fields"):
        args = list(example)
    elif children(example) is not None:
        args = [example]
    else:
        raise SourceError(f"the example is {kind_of(example)}", "give a tensor, a tuple or a dict of tensors")
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as unfit:
        if not args and kwargs and "missing" in str(unfit):
            return dict(signature.bind_partial(**kwargs).arguments)
        raise SourceError(
            f"the example does not fit forward{signature} of {kind}: {unfit}", "give one example for each input"
        ) from unfit
    return dict(bound.arguments)


def _are_keywords(signature: inspect.Signature, example: Mapping[Any, Any]) -> bool:
    parameters = signature.parameters
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_POSITIONAL}
    return all(isinstance(key, str) for key in example) and (free or set(example) <= named)


def _required(signature: inspect.Signature) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in kinds and parameter.default is parameter.empty
    ]


def example_array(name: str, tensor: torch.Tensor) -> np.ndarray:
    """Return an example tensor as an array of its own."""
    with foreign(f"the example of {name}", SourceError, "give a dense tensor of a plain dtype"):
        return np.array(tensor.detach().cpu().numpy())
