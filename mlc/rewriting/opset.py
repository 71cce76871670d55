"""Raising the opset of a file to what the passes need: believed only where every value stays what it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from mlc.compare import EXPORT_TOLERANCE, compare
from mlc.compare.decisions import graph_values, with_outputs
from mlc.errors import MlcError, PassError, foreign
from mlc.fusion import opset_of, quiet
from mlc.invariants import interface
from mlc.rewriting.portions import portions
from mlc.rewriting.sessions import Feeds, Runner

HIDDEN = "it has branches or loops, which cannot be compared"


def raised(
    model: ir.Model,
    opset: int,
    runner: Runner,
    feeds: Sequence[Feeds],
    worth: Callable[[ir.Model], bool] = lambda _model: True,
) -> tuple[ir.Model, str]:
    """Return the model at a higher opset, or as it was, and a sentence that says which; none where it is not ``worth``.

    ONNX's converter is wrong in places (Resize from 10 to 13), so every value that both graphs have is compared. What a
    branch or the body of a loop computes may not be seen in these runs, so a model that has one stays as it is.
    """
    old = opset_of(model)
    try:
        after = converted(model, opset)
        if opset_of(after) == opset and not worth(after):
            return model, ""
        hidden = next(model.graph.subgraphs(), None) is not None
        reason = HIDDEN if hidden else _difference(model, after, opset, runner, feeds)
    except MlcError as error:
        reason = error.message
    if reason:
        return model, f"opset {old} could not be raised to {opset}: {reason}"
    return after, f"opset {old} was raised to {opset}, which passes need; every value stayed what it was"


def converted(model: ir.Model, opset: int) -> ir.Model:
    """Return what ONNX's converter makes of a model, which may be at another opset. Raises PassError where it fails."""
    from onnxscript.version_converter import convert_version

    after = model.clone()
    with foreign("the converter of ONNX", PassError), quiet("onnxscript.version_converter"):
        convert_version(after, opset, fallback=True)
    after.ir_version = max(after.ir_version, onnx.helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset])
    for value, kept in zip(after.graph.outputs, model.graph.outputs, strict=False):
        value.type, value.shape = kept.type, kept.shape
    return after


def _difference(model: ir.Model, after: ir.Model, opset: int, runner: Runner, feeds: Sequence[Feeds]) -> str:
    """Return how the converted model differs, or nothing."""
    if opset_of(after) != opset:
        return "ONNX has no conversion for one of its operators"
    if interface(after) != interface(model):
        return "its inputs or outputs changed"
    known = {value.name for value in graph_values(model.graph)}
    names = [str(value.name) for node in after.graph for value in node.outputs if value.name in known]
    for part in portions(model.graph, names, feeds):
        expected, actual = ([_values(each, part, runner, feed) for feed in feeds] for each in (model, after))
        for wanted, given in zip(expected, actual, strict=True):
            wrong = next(filter(None, compare(wanted, given, EXPORT_TOLERANCE)), None)
            if wrong is not None:
                return wrong.reason
    return ""


def _values(model: ir.Model, names: Sequence[str], runner: Runner, feed: Feeds) -> dict[str, np.ndarray]:
    found = runner.run(with_outputs(model, names), feed)
    return {name: found[name] for name in names if isinstance(found[name], np.ndarray)}  # sequences are no arrays
