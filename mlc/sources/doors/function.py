"""A function in a file or package that returns the model, alone or with its example."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.errors import SourceError, UsageError, foreign, kind_of
from mlc.figures import counted
from mlc.grammar.places import names_function
from mlc.references import code_file, load_function
from mlc.sources.asked import Asked
from mlc.sources.keras.backend import is_keras, on_torch
from mlc.sources.original import Original

if TYPE_CHECKING:
    from mlc.sources.live import Model

PAIR = 2
"""A function returns the model, or the model and its example."""

WEIGHTS = (".safetensors", ".safetensors.index.json", ".pt", ".pth", ".bin", ".ckpt")
"""How names of weights files end; a folder that holds one of the first two is one too."""


def opens(asked: Asked) -> bool:
    """Whether the source is written as a reference to a function."""
    return names_function(asked.reference)


def load(asked: Asked) -> Original:
    """Call the function, load the weights that are named, and return the model as an Original."""
    reference = asked.reference
    if asked.weights is not None:
        _check_name(asked.weights)
    with on_torch():
        from mlc.sources.live import original_of
        from mlc.sources.weights.partial import heard

        with heard() as loads:  # the file may make its module as it is imported
            function = load_function(reference, SourceError)
            with seeded(), foreign(f"the function {reference}"):
                model, shown = model_and_example(reference, function())
    notes = _loaded(model, Path(asked.weights), reference) if asked.weights else loads.check(model)
    chosen = shown if asked.example is None else asked.example
    code = code_file(reference, SourceError)
    return original_of(model, asked.inputs, chosen, source=asked.source, code=code, notes=notes)


@contextmanager
def seeded() -> Iterator[None]:
    """Let weights that are drawn be the same every time, and leave the generators as they were found."""
    import torch

    before = random.getstate()
    random.seed(0)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(before)


def _check_name(weights: str) -> None:
    if not weights.endswith(WEIGHTS) and not (weights and Path(weights).is_dir()):
        raise UsageError(
            f"the weights {weights!r} are no file of weights",
            f"write a file after the @ that ends in {', '.join(WEIGHTS)}, or the folder of one",
        )


def _loaded(model: Model, weights: Path, reference: str) -> tuple[str, ...]:
    """Load weights into what a function returned; returns notes."""
    from torch import nn

    from mlc.sources.weights.files import load_weights

    if is_keras(model) or not isinstance(model, nn.Module):
        raise SourceError(
            f"{reference} returned {kind_of(model)}, which brings its own weights",
            "leave the @ and its file out, and load them in the function",
        )
    return load_weights(model, weights)


def model_and_example(reference: str, returned: object) -> tuple[Model, Any]:
    """Return the model that a function returned, and the example beside it. Raises SourceError for anything else."""
    from mlc.sources.live import is_model

    if is_model(returned):
        return returned, None
    if isinstance(returned, tuple) and returned and is_model(returned[0], returned[1:]):
        if len(returned) == PAIR:
            return returned[0], returned[1]
        raise SourceError(
            f"{reference} returned {counted(len(returned), 'thing')}",
            "return the module, or (module, example inputs) with a tuple",
        )
    what = "None" if returned is None else kind_of(returned)
    first = returned[0] if isinstance(returned, tuple) and returned else returned
    hint = "return an instance, not the class" if isinstance(first, type) else "return a torch.nn.Module"
    if callable(first) and not isinstance(first, type):
        hint += ", or (function, example) with JAX arrays in the example"
    if isinstance(returned, Mapping):
        hint = "return the module, and write its weights after an @"
    raise SourceError(f"{reference} returned {what}, not a module", hint)
