"""The one entrance to every kind of source: a live module, or the first door that opens to what is written."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc.errors import SourceError, UsageError, kind_of
from mlc.references import function_hint
from mlc.sources.asked import Asked
from mlc.sources.original import Original
from mlc.types import InputSpec

if TYPE_CHECKING:
    from mlc.sources.live import Model

DOORS = ("artifact", "onnx_file", "huggingface", "lightning", "program", "pickled", "keras", "function")
"""Modules of mlc.sources.doors, tried in this order."""

FORMS = (
    "file.py:function or package.module:function (with @weights), model.onnx, model.pt2, model.pt, model.keras, "
    "or a directory of mlc's or Hugging Face's"
)

SHOWN = 60
"""How much of a name stands in a message that is about its length."""


def load(
    source: str | Model,
    inputs: Sequence[InputSpec] = (),
    example: Any = None,
    *,
    trust: bool = False,
    task: str | None = None,
) -> Original:
    """Return the Original behind a source: its signature is complete, and it has run on its example.

    ``source`` is written as on the command line, or is a live module, TorchScript module or exported program.
    ``example`` (a tensor, a tuple in the order of forward's parameters, or a dict by name) takes the place of the one
    that the source brings. No code from a model file runs without ``trust``.
    Raises UsageError for wrong specs, SourceError where the model cannot be used.
    """
    if not isinstance(source, str):
        return _live(source, inputs, example)
    asked = Asked(source, tuple(inputs), example, trust, task)
    _check_names(asked)
    for name in DOORS:
        door = import_module(f"mlc.sources.doors.{name}")
        if door.opens(asked):
            if task is not None and name != "huggingface":
                raise UsageError(f"--task was given, and {source} is no Hugging Face directory", "leave --task out")
            opened: Original = door.load(asked)
            return opened
    raise UsageError(f"{source!r} is no source of a model", _hint(asked.reference))


def _check_names(asked: Asked) -> None:
    """Raise UsageError for what no file can be called, before any door looks for one."""
    for name in (asked.reference, asked.weights or ""):
        try:
            Path(name).exists()
        except OSError as bad:
            raise UsageError(f"{name[:SHOWN]!r} cannot be a name: {bad.strerror}", f"write {FORMS}") from bad


def _hint(reference: str) -> str:
    if reference.endswith(".py"):
        return function_hint(reference)
    if Path(reference, "model.onnx").is_file():
        return f"write {Path(reference, 'model.onnx')} for the model in that directory"
    folder = reference.rpartition("@")[0]
    if folder and Path(folder).is_dir():
        return f"the model in a directory has its own weights: write {folder}"
    if Path(reference).suffix == ".safetensors":
        return f"a .safetensors file has weights and no module; write file.py:function@{reference}"
    near = difflib.get_close_matches(Path(reference).name, [path.name for path in Path.cwd().glob("*.onnx")], n=1)
    return f"did you mean {near[0]}?" if near else f"write {FORMS}"


def _live(module: object, inputs: Sequence[InputSpec], example: Any) -> Original:
    from mlc.sources.live import is_model, original_of

    if not is_model(module, example):
        hint = "give a JAX function with an example that holds JAX arrays, " if callable(module) else "give a module, "
        raise SourceError(f"the model is {kind_of(module)}, not a torch.nn.Module", f"{hint}or {FORMS}")
    return original_of(module, inputs, example)
