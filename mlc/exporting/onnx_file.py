"""An .onnx file is ONNX already: read, its nodes named, its metadata stripped, for runtimes as old as it allows."""

from __future__ import annotations

import onnx_ir as ir

from mlc.errors import UsageError
from mlc.exporting.tidy import lowest_ir_version, name_nodes, strip_metadata
from mlc.exporting.translation import Translation
from mlc.fusion import opset_of
from mlc.sources.onnx.file import OnnxOriginal
from mlc.types import Sizes

WIDELY_READ = 8
"""The IR version below which no runtime is older: the version of a file is lowered to what it needs, not further."""


def translate(original: OnnxOriginal, _traced: Sizes, opset: int | None) -> Translation:
    """Return the file's own model. Raises UsageError where another opset than its own is asked for."""
    model = ir.load(original.path)
    own = opset_of(model)
    if opset not in (None, own):
        raise UsageError(
            f"opset {opset} was asked for, and {original.path.name} is written in opset {own}",
            "leave the opset out: an .onnx file keeps its own, or is raised for passes that need it",
        )
    if not model.functions:  # of which some need a newer IR version than the operators do
        model.ir_version = min(model.ir_version, max(lowest_ir_version(model), WIDELY_READ))
    name_nodes(model)
    strip_metadata(model)
    return Translation(model, f"read from {original.path.name}")
