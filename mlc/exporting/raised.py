"""Branches and bodies of loops in the opset of their model: torch.onnx raises what is in the main graph alone.

It writes opset 18 and converts it upwards (ONNX, Operators: DFT and GridSample, opset 20).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mlc.fusion import is_standard, opset_of

NAMED_ANEW = 20
"""The opset at which both changed."""

MODES = {"bilinear": "linear", "bicubic": "cubic"}
"""What GridSample was asked for before, and is from there on."""


def raise_bodies(model: ir.Model) -> None:
    """Write the axis of a DFT as an input, and the modes of GridSample by their new names."""
    if opset_of(model) < NAMED_ANEW:
        return
    for graph in model.graphs():
        for node in list(graph) if graph is not model.graph else ():
            if is_standard(node) and node.op_type == "DFT" and "axis" in node.attributes:
                _with_axis_as_input(node, graph)
            elif is_standard(node) and node.op_type == "GridSample" and "mode" in node.attributes:
                mode = node.attributes["mode"].as_string()
                node.attributes["mode"] = ir.AttrString("mode", MODES.get(mode, mode))


def _with_axis_as_input(node: ir.Node, graph: ir.Graph) -> None:
    axis = node.attributes.pop("axis").as_int()
    made = ir.node("Constant", [], {"value": ir.tensor(np.array(axis, np.int64))})
    graph.insert_before(node, made)
    node.resize_inputs(3)
    node.replace_input_with(2, made.outputs[0])
