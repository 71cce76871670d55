"""A Keras model as a torch module: weights by their Keras paths, a forward that takes tensors by the inputs' names."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mlc.errors import foreign

RANDOM = "seed_generator_state"
"""What Keras calls the variable that every random draw moves on."""

OWN_ARGUMENTS = ("training", "mask")
"""Arguments of ``call`` that are no inputs."""


@dataclass(frozen=True)
class KerasInput:
    """What a model says of one of its inputs; an axis is a size, or None where the model leaves it open."""

    name: str
    dtype: str
    axes: tuple[int | None, ...]


@dataclass
class Seen:
    """What calls did that an export loses: the state that they changed, and what random numbers were drawn from.

    An object of its own, since a module's containers are put back after each run.
    """

    changed: set[str] = field(default_factory=set)
    drawn: set[str] = field(default_factory=set)


class KerasModule(nn.Module):
    """Computes what a Keras model does in inference, with the model's weights as its own parameters.

    The model is no submodule. It is called in a scope where its variables stand for these parameters, so that what a
    call would change, such as the state of a recurrent layer, stays as it is; ``seen`` names it. ``inputs`` are those
    that the model itself knows: none where it is a subclass, whose inputs are the arguments of its ``call``.
    """

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)
        self.inputs = known_inputs(model)
        self.seen = Seen()
        self.variables: list[tuple[Any, str]] = []
        parameters = inspect.signature(model.call).parameters
        self.options = _options(model)
        own = [parameter for name, parameter in parameters.items() if name not in OWN_ARGUMENTS]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        named = [inspect.Parameter(one.name, kind) for one in self.inputs]
        self.forward = _signed(self._call_known if named else self._call, inspect.Signature(named or own))
        self.seeds = [variable for variable in model.variables if variable.name == RANDOM]
        for variable in model.variables:
            if variable.name == RANDOM:  # drawn anew in every process, and of no use in inference
                continue
            path = variable.path.replace(".", "_")
            name = path if path not in self._parameters else f"{path}_{len(self.variables)}"
            self.register_parameter(name, nn.Parameter(variable.value.detach(), requires_grad=False))
            self.variables.append((variable, name))

    def _call_known(self, *tensors: torch.Tensor) -> Any:
        structure = getattr(self.model, "input", None)
        if structure is None:
            return self._call(*tensors)
        return self._call(sys.modules["keras"].tree.pack_sequence_as(structure, tensors))

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        mapping = [(variable, self.get_parameter(name)) for variable, name in self.variables]
        with sys.modules["keras"].StatelessScope(state_mapping=mapping) as scope:
            returned = self.model(*args, **kwargs, **self.options)
        drawn = [variable.path for variable in self.seeds if scope.get_current_value(variable) is not None]
        self.seen.drawn.update(drawn)
        self.seen.changed |= {
            variable.path for variable, tensor in mapping if scope.get_current_value(variable) is not tensor
        }
        if len(scope.state_mapping) > len(mapping) + len(drawn):  # what recurrent layers keep is no variable of a model
            self.seen.changed.add("the state of a layer")
        return returned


def wrapped(model: Any) -> KerasModule:
    """Return a model as a torch module whose class is called as the model's own, which sentences and digests name."""
    module: KerasModule = type(type(model).__name__, (KerasModule,), {})(model).eval()
    return module


def build(model: Any, example: Any) -> None:
    """Call a model, which makes its weights when it is first called, on an example: a tensor, a tuple or a dict."""
    parameters = inspect.signature(model.call).parameters
    if isinstance(example, Mapping) and set(example) <= set(parameters):
        args, kwargs = (), dict(example)
    else:
        args, kwargs = tuple(example) if isinstance(example, tuple | list) else (example,), {}
    with foreign(f"the Keras model {model.name}"), torch.no_grad():
        model(*args, **kwargs, **_options(model))


def _options(model: Any) -> dict[str, bool]:
    """Return the arguments that make a call one of inference."""
    return {"training": False} if "training" in inspect.signature(model.call).parameters else {}


def _signed(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """Return the function with another signature for those who ask for it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward


def known_inputs(model: Any) -> tuple[KerasInput, ...]:
    """Return the inputs that a model itself knows, in its order: those of a functional or a built sequential one.

    An input has the key of the dict that the model takes, else the name of its layer.
    """
    structure = getattr(model, "input", getattr(model, "inputs", None))
    if structure is None:
        return ()
    found = sys.modules["keras"].tree.flatten_with_path(structure)
    return tuple(KerasInput(_name(path, tensor), tensor.dtype, tuple(tensor.shape)) for path, tensor in found)


def _name(path: Sequence[Any], tensor: Any) -> str:
    history = getattr(tensor, "_keras_history", None)
    name = path[-1] if path and isinstance(path[-1], str) else history.operation.name if history else tensor.name
    return re.sub(r"\W", "_", name)
