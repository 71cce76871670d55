"""A checkpoint of Lightning: ``file.py:LightningClass@epoch.ckpt``, or the function that makes the module inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlc.errors import SourceError, UsageError, foreign, kind_of
from mlc.grammar.places import names_function
from mlc.references import Function, code_file, load_function
from mlc.sources.asked import Asked
from mlc.sources.doors.function import model_and_example, seeded
from mlc.sources.original import Original

ENDING = ".ckpt"
PACKAGES = {"lightning", "pytorch_lightning"}
"""The packages that have Lightning's classes."""


def opens(asked: Asked) -> bool:
    """Whether the source is written as a checkpoint, or with one as its weights."""
    if asked.weights is None:
        return asked.reference.lower().endswith(ENDING)
    return asked.weights.lower().endswith(ENDING) and names_function(asked.reference)


def load(asked: Asked) -> Original:
    """Make the module, load the checkpoint into it and return it as an Original.

    A class of Lightning is made with the hyper parameters of the checkpoint; any other function takes nothing, and its
    module gets the weights of the ``state_dict`` that fit it. Raises UsageError where no code is named.
    """
    if asked.weights is None:
        raise UsageError(
            f"{asked.reference} holds weights, and the code of its module lies elsewhere",
            f"name the LightningModule, or a function that returns the module inside: file.py:Class@{asked.reference}",
        )
    path = Path(asked.weights)
    made = _function(asked.reference)
    from torch import nn

    from mlc.sources.live import original_of
    from mlc.sources.weights.checkpoint import load_class, load_inside, read_checkpoint

    checkpoint = read_checkpoint(path, trust=asked.trust)
    if _is_lightning(made):
        module, notes = load_class(made, path, checkpoint, trust=asked.trust)
        example = None
    else:
        with seeded(), foreign(f"the function {asked.reference}"):
            module, example = model_and_example(asked.reference, made())
        if not isinstance(module, nn.Module):
            raise SourceError(
                f"{asked.reference} returned {kind_of(module)}, not a torch module", "return the module inside"
            )
        notes = load_inside(module, path, checkpoint)
    if example is None:
        example = getattr(module, "example_input_array", None)
    chosen = example if asked.example is None else asked.example
    code = code_file(asked.reference, SourceError)
    return original_of(module, asked.inputs, chosen, source=asked.source, code=code, notes=notes)


def _function(reference: str) -> Function:
    """Return what the reference names; where its file needs Lightning, say how that is installed."""
    try:
        return load_function(reference, SourceError)
    except SourceError as failed:
        missing = failed.__cause__
        if isinstance(missing, ModuleNotFoundError) and (missing.name or "").partition(".")[0] in PACKAGES:
            raise SourceError(failed.message, "pip install 'mlc-toolchain[lightning]'") from missing
        raise


def _is_lightning(made: Any) -> bool:
    """Whether a function is a class of Lightning's, of whichever of its packages."""
    parents = made.__mro__ if isinstance(made, type) else ()
    return any(
        parent.__name__ == "LightningModule" and parent.__module__.partition(".")[0] in PACKAGES for parent in parents
    )
