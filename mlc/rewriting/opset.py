"""Raising the opset of a file to what the passes need: believed only where every value stays what it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from mlc.compare import EXPORT_TOLERANCE, compare
from mlc.compare.decisions import graph_values, with_outputs
from mlc.errors import MlcError, PassError, foreign
from mlc.fusion import infer_shapes, opset_of, quiet
from mlc.invariants import interface
from mlc.rewriting.portions import portions
from mlc.rewriting.sessions import Feeds, Runner

RESIZE = 11
"""The opset from which on Resize says how it takes its neighbours."""

RESIZING = frozenset({"Resize", "Upsample"})


def raised(
    model: ir.Model,
    opset: int,
    runner: Runner,
    feeds: Sequence[Feeds],
    worth: Callable[[ir.Model], bool] = lambda _model: True,
) -> tuple[ir.Model, str]:
    """Return the model at a higher opset, or as it was, and a sentence that says which; none where it is not ``worth``.

    ONNX's converter is wrong in places, so every value that both graphs have is compared. What a branch or the body of
    a loop computes may not be seen in these runs, so a model that has one stays as it is; so does one that resizes by
    the rules before opset 11 at sizes that vary: as it is converted it may differ at those that are not compared.
    """
    old = opset_of(model)
    try:
        after = converted(model, opset)
        if opset_of(after) == opset and not worth(after):
            return model, ""
        reason = _hidden(after) or _resized(model, opset) or _difference(model, after, opset, runner, feeds)
    except MlcError as error:
        reason = error.message
    if reason:
        return model, f"opset {old} could not be raised to {opset}: {reason}"
    return after, f"opset {old} was raised to {opset}, which passes need; every value stayed what it was"


def _hidden(after: ir.Model) -> str:
    """Return what of a converted model its runs may not show, or nothing; functions were written out in it."""
    hidden = next(after.graph.subgraphs(), None) is not None or after.functions
    return "it has branches or loops, which cannot be compared" if hidden else ""


def _resized(model: ir.Model, opset: int) -> str:
    """Return which node resizes in another way from opset 11 on, at sizes that vary, or nothing."""
    if opset_of(model) >= RESIZE or opset < RESIZE:
        return ""
    known = model.clone()
    infer_shapes(known)
    functions = (node for function in known.functions.values() for node in function)
    inside = next((node for node in functions if node.op_type in RESIZING), None)
    nodes = (node for node in known.graph if node.op_type in RESIZING)
    varies = inside or next((node for node in nodes if not _of_one_size(node)), None)
    return (
        "" if varies is None else f"{varies.op_type} {varies.outputs[0].name} takes other neighbours from opset 11 on"
    )


def _of_one_size(node: ir.Node) -> bool:
    """Whether a node goes from sizes that are numbers, the batch aside, by constants: in every run as in these."""
    x, *others = node.inputs
    fixed = x is not None and x.shape is not None and all(isinstance(size, int) for size in list(x.shape)[1:])
    return fixed and all(value is None or value.const_value is not None for value in others)


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
