"""What a checkpoint of Lightning holds, and how it comes into a module."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlc.errors import SourceError, UsageError, foreign
from mlc.figures import counted
from mlc.sources.contents import TRUST, Kind, look, printable
from mlc.sources.silence import silent
from mlc.sources.weights.files import load_state
from mlc.sources.weights.state import REFUSED, state_of
from mlc.sources.weights.tensors import listed

WEIGHTS, PARAMETERS = "state_dict", "hyper_parameters"
"""Where a checkpoint keeps them."""

OLD_PARAMETERS = ("hparams", "module_arguments")
"""Where old versions kept them."""

IMPORTED = ("_instantiator", "_class_path")
"""Hyper parameters that name what a class is made with: a text, so that reading it imports nothing yet."""

SAVE_AGAIN = "write it again with trainer.save_checkpoint"

SAID, SHOWN = 300, 40
"""How many characters of what torch says, and of a value, stand in a sentence."""


def read_checkpoint(path: Path, *, trust: bool) -> Mapping[str, Any]:
    """Return a checkpoint as a dict; nothing in it is run without ``trust``.

    Raises SourceError for what is no dict of torch.save, UsageError for one that would have to import code.
    """
    contents = look(path)
    if contents.kind is not Kind.DICT:
        raise SourceError(f"{path} is {contents}, not a checkpoint", SAVE_AGAIN)
    try:
        with foreign("torch.load"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=not trust, mmap=contents.archive)
    except SourceError as failed:
        named = REFUSED.search(str(failed.__cause__))
        if named is None:
            raise SourceError(f"{path} cannot be read: {failed.message}", SAVE_AGAIN) from failed
        raise UsageError(
            f"{path} holds more than tensors and numbers: to read it, {named[1]} would be imported, which can run any "
            "code",
            f"save hyper parameters as plain values, or {TRUST}",
        ) from failed
    if not trust:
        _refuse_import(path, found)
    return dict(found)


def _refuse_import(path: Path, found: Mapping[str, Any]) -> None:
    """Raise UsageError for hyper parameters that name code to import: some versions of Lightning would call it."""
    for given in (found.get(key) for key in (PARAMETERS, *OLD_PARAMETERS)):
        named = [given[key] for key in IMPORTED if key in given] if isinstance(given, Mapping) else []
        if named:
            raise UsageError(
                f"{path} says that {printable(str(named[0]))} should be imported and called, which can run any code",
                f"save it without LightningCLI, or {TRUST}",
            )


def load_class(made: Any, path: Path, checkpoint: Mapping[str, Any], *, trust: bool) -> tuple[Any, tuple[str, ...]]:
    """Return a LightningModule as its ``load_from_checkpoint`` makes it, and notes on how that was."""
    if WEIGHTS not in checkpoint:
        raise SourceError(f"{path} has no {WEIGHTS}, as Lightning writes it: it has {listed(checkpoint)}", SAVE_AGAIN)
    asked: dict[str, Any] = {"map_location": "cpu"}
    if "weights_only" in inspect.signature(made.load_from_checkpoint).parameters:
        asked["weights_only"] = not trust
    try:
        with silent(), torch.random.fork_rng(devices=[]), foreign(f"{made.__name__}.load_from_checkpoint"):
            torch.manual_seed(0)
            module = made.load_from_checkpoint(str(path), **asked)
    except SourceError as failed:
        raise _refused(made, path, failed) from failed.__cause__
    given = [f"{name}={repr(value)[:SHOWN]}" for name, value in dict(checkpoint.get(PARAMETERS) or {}).items()]
    notes = [f"made with the hyper parameters of {path.name}: {listed(given)}"] if given else []
    left = [key for key in module.state_dict() if key not in checkpoint[WEIGHTS]]
    if left:
        notes.append(f"strict_loading is off: not in {path.name}, and left as __init__ makes them, are {listed(left)}")
    return module.eval(), tuple(notes)


def _refused(made: Any, path: Path, failed: SourceError) -> SourceError:
    """Return why a class cannot be made from a checkpoint: its arguments, or its weights."""
    raised = failed.__cause__ or failed
    said = " ".join(str(raised).split())[:SAID]
    if isinstance(raised, RuntimeError) and "state_dict" in said:
        _, _, said = said.partition(": ")
        return SourceError(f"{path.name} does not fit {made.__name__}: {said}", "give the class that it was saved from")
    if isinstance(raised, TypeError) and "__init__" in said:
        return SourceError(
            f"{path.name} does not hold what {made.__name__} is made of: {said}",
            "call self.save_hyperparameters() in __init__, or name a function that returns the module",
        )
    return failed


def load_inside(module: nn.Module, path: Path, checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Load the weights that fit a module, all of them or those under one prefix, strictly; returns notes."""
    state, wanted = checkpoint.get(WEIGHTS), module.state_dict()
    prefixes = _prefixes(state, wanted) if isinstance(state, Mapping) else []
    if len(prefixes) > 1:
        raise SourceError(
            f"{path.name} has weights that fit the module under {' and '.join(map(repr, prefixes))}",
            "return the LightningModule itself, or a module that holds the one that is meant under its name",
        )
    if not prefixes or not isinstance(state, Mapping):
        whole, found = state_of(checkpoint, path)
        return (*found, *load_state(module, whole, path))
    prefix = prefixes[0]
    inside, _ = state_of({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}, path)
    notes = load_state(module, inside, path)
    others = [key for key in state if not key.startswith(prefix)]
    left = f"; {counted(len(others), 'other is', 'others are')} left out: {listed(others)}" if others else ""
    return (f"the weights are those under {prefix!r} in {path.name}{left}", *notes)


def _prefixes(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return every prefix under which a state dict has just the keys that a module wants; none where they are bare."""
    first = next(iter(wanted), None)
    if first is None or first in state:
        return []
    ends = sorted({key.removesuffix(first) for key in state if key.endswith(f".{first}")})
    return [end for end in ends if {key.removeprefix(end) for key in state if key.startswith(end)} == set(wanted)]
