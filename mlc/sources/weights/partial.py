"""Weights that the user's own code loads in part: torch says nothing of those that stay as they were drawn."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mlc.errors import SourceError
from mlc.figures import counted
from mlc.sources.weights.tensors import listed


@dataclass(frozen=True)
class Partial:
    """A load into a module of a class that left tensors out, and the keys that it was given."""

    kind: str
    left: tuple[torch.Tensor, ...]
    keys: tuple[str, ...]
    fitting: bool
    """Whether any of the keys is one of the module's, or there is none that could be."""


@dataclass(frozen=True)
class Loads:
    """The loads that were heard of: those that left something out, and by id all tensors that one of them filled."""

    partial: list[Partial] = field(default_factory=list)
    filled: dict[int, torch.Tensor] = field(default_factory=dict)

    def hear(
        self, module: nn.Module, keys: Collection[str], missing: Collection[str], unexpected: Collection[str]
    ) -> None:
        """Take note of a load of some keys into a module: those of its own that were missing, those not its own."""
        tensors = _tensors(module)
        self.filled.update((id(tensor), tensor) for name, tensor in tensors.items() if name not in missing)
        left = tuple(tensor for name, tensor in tensors.items() if name in missing)
        if left:
            fitting = not keys or len(unexpected) < len(keys)
            self.partial.append(Partial(type(module).__name__, left, tuple(keys), fitting))

    def check(self, model: object) -> tuple[str, ...]:
        """Return a note for each load that left weights of a model as they were, and no other load filled them.

        Raises SourceError for one of which no key did fit. What is no module of torch has no such weights.
        """
        tensors, notes = _tensors(model) if isinstance(model, nn.Module) else {}, []
        for load in self.partial:
            out = {id(tensor) for tensor in load.left} - self.filled.keys()
            left = [name for name, tensor in tensors.items() if id(tensor) in out]
            if not left:
                continue
            what = f"load_state_dict with strict=False left {counted(len(left), 'weight')} of {load.kind} as drawn"
            if not load.fitting:
                raise SourceError(
                    f"{what}, since no key did fit: they are {listed(load.keys)}, the module has {listed(left)}",
                    "load with strict=True and rename the keys, or let mlc load them: file.py:function@weights takes "
                    "off what wrappers put before every key",
                )
            notes.append(f"{what}: {listed(left)}")
        return tuple(notes)


@contextmanager
def heard() -> Iterator[Loads]:
    """Hear of every ``load_state_dict`` inside the block: with strict=False one that finds no key does not fail."""
    loads, plain = Loads(), nn.Module.load_state_dict

    @functools.wraps(plain)
    def load_state_dict(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        result = plain(self, state_dict, *args, **kwargs)
        loads.hear(self, state_dict.keys(), result.missing_keys, result.unexpected_keys)
        return result

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    try:
        yield loads
    finally:
        if nn.Module.load_state_dict is load_state_dict:  # else a library replaced it as it was imported
            nn.Module.load_state_dict = plain  # type: ignore[method-assign]


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers by name. The class may have a state_dict of its own, of other tensors."""
    parts = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return dict(itertools.chain(*parts))
