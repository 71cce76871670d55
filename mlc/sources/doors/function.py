"""A function in a file or package that returns the module, alone or with its example."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.errors import SourceError, UsageError, foreign, kind_of
from mlc.references import code_file, load_function
from mlc.sources.asked import Asked
from mlc.sources.original import Original

if TYPE_CHECKING:
    from torch import nn

PAIR = 2
"""A function returns the module, or the module and its example."""


def opens(asked: Asked) -> bool:
    """Whether the source is written as a reference to a function."""
    return ":" in asked.reference


def load(asked: Asked) -> Original:
    """Call the function, load the weights that are named, and return the module as an Original."""
    reference = asked.reference
    if asked.weights is not None and not asked.weights.endswith(".safetensors"):
        raise UsageError(
            f"the weights {asked.weights!r} are no .safetensors file",
            saved(asked.weights) if asked.weights else "write the file after the @",
        )
    function = load_function(reference, SourceError)
    import torch

    from mlc.sources.torch_module import TorchOriginal
    from mlc.sources.weights import load_weights

    with torch.random.fork_rng(devices=[]), foreign(f"the function {reference}"):
        torch.manual_seed(0)
        module, shown = _module_and_example(reference, function())
    notes = load_weights(module, Path(asked.weights)) if asked.weights else ()
    chosen = shown if asked.example is None else asked.example
    code = code_file(reference, SourceError)
    return TorchOriginal(module, asked.inputs, chosen, source=asked.source, code=code, notes=notes)


def saved(path: str) -> str:
    """Return how weights that were pickled are saved in the form that is safe to load."""
    name = f"{Path(path).stem}.safetensors"
    return f"save its state dict once: safetensors.torch.save_file(torch.load({path!r}, weights_only=True), {name!r})"


def _module_and_example(reference: str, returned: object) -> tuple[nn.Module, Any]:
    from torch import nn

    if isinstance(returned, nn.Module):
        return returned, None
    if isinstance(returned, tuple) and returned and isinstance(returned[0], nn.Module):
        if len(returned) == PAIR:
            return returned[0], returned[1]
        raise SourceError(
            f"{reference} returned {len(returned)} things",
            "return the module, or (module, example inputs) with a tuple",
        )
    what = "None" if returned is None else kind_of(returned)
    hint = "return an instance, not the class" if isinstance(returned, type) else "return a torch.nn.Module"
    if isinstance(returned, Mapping):
        hint = "return the module, and write its weights after an @"
    raise SourceError(f"{reference} returned {what}, not a module", hint)
