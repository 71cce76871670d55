"""Numbers drawn at random: no two runs of a model agree that hangs on them, and no comparison means anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from mlc.compare import Reference
from mlc.errors import MlcError, SourceError
from mlc.formats import RANDOM
from mlc.fusion import is_standard
from mlc.runtimes.onnxruntime import open_session
from mlc.types import Target
from mlc.workspace import Workspace

FAR = 10.0
"""How many standard deviations from the mean a normal number is that two runs would hardly show."""

TRIED = 3
"""References that are run with other numbers in the place of those drawn."""


def refuse_random(model: ir.Model, references: Sequence[Reference], workspace: Workspace) -> None:
    """Raise SourceError where an output hangs on a node that draws numbers, which two runs need not show.

    The lowest and the highest numbers are put in the place of those drawn; noise that an input turns off changes
    nothing. What cannot be tried so is refused.
    """
    drawing = next(_drawing(model.graph), None)
    inside = next((node for graph in model.graph.subgraphs() for node in _drawing(graph)), None)
    drawing = inside or drawing
    if drawing is None:
        return
    error = SourceError(
        f"the model is random: {drawing.op_type} {drawing.outputs[0].name} draws numbers in each run",
        "take the randomness out of forward, or give it in as an input, or declare inputs for which it does not count",
    )
    if inside is not None:  # no run may take it
        raise error
    try:
        low, high = ([*_answers(_instead(model, side), references[:TRIED], workspace)] for side in (0, 1))
    except (MlcError, KeyError) as failed:
        raise error from failed
    if any(not np.array_equal(*pair, equal_nan=True) for pair in zip(low, high, strict=True)):
        raise error


def _drawing(graph: ir.Graph) -> Iterator[ir.Node]:
    return (node for node in graph if node.op_type in RANDOM and is_standard(node))


def _answers(model: ir.Model, references: Sequence[Reference], workspace: Workspace) -> Iterator[np.ndarray]:
    with open_session(workspace.save(model, "drawn"), Target(), optimize=False) as session:
        for reference in references:
            yield from session.run(reference.inputs).values()


def _instead(model: ir.Model, side: int) -> ir.Model:
    """Return a clone with one number in the place of each that is drawn: of its lower or of its upper end."""
    clone = model.clone()
    for node in [*_drawing(clone.graph)]:
        like = node.inputs[0] if node.inputs else None
        dtype = _dtype(node, like)
        number = ir.tensor(np.array([_end(node, side)]).astype(dtype.numpy()), dtype=dtype)
        if like is None:
            shape = ir.node("Constant", [], {"value_ints": list(node.attributes["shape"].as_ints())})
        else:
            shape = ir.node("Shape", [like])
        filled = ir.node("ConstantOfShape", [shape.outputs[0]], {"value": number})
        assert node.graph is not None
        node.graph.insert_before(node, [shape, filled])
        node.outputs[0].replace_all_uses_with(filled.outputs[0], replace_graph_outputs=True)
    return clone


def _dtype(node: ir.Node, like: ir.Value | None) -> ir.DataType:
    if "dtype" in node.attributes:
        return ir.DataType(node.attributes["dtype"].as_int())
    return ir.DataType.FLOAT if like is None or like.dtype is None else like.dtype


def _end(node: ir.Node, side: int) -> float:
    """Return an end of the numbers that a node draws. Raises KeyError for what has none of its own."""

    def attribute(name: str, default: float) -> float:
        return node.attributes[name].as_float() if name in node.attributes else default

    if node.op_type.startswith("RandomNormal"):
        return attribute("mean", 0.0) + (FAR if side else -FAR) * attribute("scale", 1.0)
    ends = {"RandomUniform": ("low", "high"), "RandomUniformLike": ("low", "high"), "Bernoulli": ("", "")}
    return attribute(ends[node.op_type][side], float(side))
