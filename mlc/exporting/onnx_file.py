"""An .onnx file is ONNX already: read, its functions written out, its nodes named, for runtimes as old as it allows."""

from __future__ import annotations

import onnx_ir as ir

from mlc.errors import UsageError
from mlc.exporting.tidy import lowest_ir_version, name_nodes, part_names, strip_metadata
from mlc.exporting.translation import Translation
from mlc.fusion import opset_of, written_out
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
    model, notes = _whole(model)
    if not model.functions:  # of which some need a newer IR version than the operators do
        model.ir_version = min(model.ir_version, max(lowest_ir_version(model), WIDELY_READ))
    part_names(model)
    name_nodes(model)
    strip_metadata(model)
    return Translation(model, f"read from {original.path.name}", notes)


def _whole(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Return a model with its own functions written out, since no pass looks into them, and notes that say so."""
    whole = written_out(model)
    called = {node.op_identifier() for graph in model.graphs() for node in graph}
    kept = [_name(each) for each in whole.functions]
    done = [_name(each) for each in model.functions if each in called and _name(each) not in kept]
    notes = []
    if done:
        notes.append(f"the model's own functions were written out where they are called: {', '.join(done)}")
    if kept:
        own = f"{', '.join(kept)}, whose operators are of another opset than the model's"
        notes.append(f"passes see nothing of the model's own functions {own}: what they compute stays as it is")
    return whole, tuple(notes)


def _name(function: ir.OperatorIdentifier) -> str:
    return f"{function[0]}.{function[1]}"
