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
    from torch import nn

DOORS = ("onnx_file", "function")
"""Modules of mlc.sources.doors, tried in this order."""

FORMS = "file.py:function, package.module:function (with @weights.safetensors), or model.onnx"


def load(
    source: str | nn.Module,
    inputs: Sequence[InputSpec] = (),
    example: Any = None,
    *,
    trust: bool = False,
    task: str | None = None,
) -> Original:
    """Return the Original behind a source: its signature is complete, and it has run on its example.

    ``source`` is written as on the command line, or is a live ``torch.nn.Module``. ``example`` (a tensor, a tuple in
    the order of forward's parameters, or a dict by name) takes the place of the one that the source brings. No code
    from a model file runs without ``trust``.
    Raises UsageError for wrong specs, SourceError where the model cannot be used.
    """
    if not isinstance(source, str):
        return _live(source, inputs, example)
    asked = Asked(source, tuple(inputs), example, trust, task)
    for name in DOORS:
        door = import_module(f"mlc.sources.doors.{name}")
        if door.opens(asked):
            opened: Original = door.load(asked)
            return opened
    raise UsageError(f"{source!r} is no source of a model", _hint(asked.reference))


def _hint(reference: str) -> str:
    if reference.endswith(".py"):
        return function_hint(reference)
    if Path(reference, "model.onnx").is_file():
        return f"write {Path(reference, 'model.onnx')} for the model in that directory"
    kind = Path(reference).suffix
    if kind in {".pt", ".pth", ".bin", ".ckpt"}:
        from mlc.sources.doors.function import saved

        return (
            f"a {kind} file alone has no module in it that is safe to load: {saved(reference)}; "
            "then write file.py:function@weights.safetensors"
        )
    if kind in {".pt2", ".safetensors"}:
        return (
            f"a {kind} file alone has no module in it that is safe to load; write file.py:function@weights.safetensors"
        )
    near = difflib.get_close_matches(Path(reference).name, [path.name for path in Path.cwd().glob("*.onnx")], n=1)
    return f"did you mean {near[0]}?" if near else f"write {FORMS}"


def _live(module: object, inputs: Sequence[InputSpec], example: Any) -> Original:
    from torch import nn

    from mlc.sources.torch_module import TorchOriginal

    if not isinstance(module, nn.Module):
        raise SourceError(f"the model is {kind_of(module)}, not a torch.nn.Module", f"give a module, or {FORMS}")
    return TorchOriginal(module, inputs, example)
