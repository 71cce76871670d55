"""Numbers drawn at random: no two runs of such a model agree, and no comparison with its original means anything."""

from __future__ import annotations

import onnx_ir as ir

from mlc.errors import SourceError
from mlc.formats import RANDOM


def refuse_random(model: ir.Model) -> None:
    """Raise SourceError where an output of a model hangs on a node that draws numbers, which two runs need not show."""
    seen: set[ir.Value] = set()
    sought = list(model.graph.outputs)
    while sought:
        value = sought.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        inner = [each for graph in _graphs(node) for each in graph.all_nodes()]
        drawing = next((each for each in (node, *inner) if each.op_type in RANDOM), None)
        if drawing is not None:
            raise SourceError(
                f"the model is random: {drawing.op_type} {drawing.outputs[0].name} draws numbers in each run",
                "take the randomness out of forward, or give it in as an input",
            )
        sought += [each for at in (node, *inner) for each in at.inputs if each is not None]


def _graphs(node: ir.Node) -> list[ir.Graph]:
    return [each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH]
