"""Resize and Pad of some axes, written for all of them.

onnxruntime lays the channels of what int8 convolutions give last, and moves the Transposes that this takes past Resize
and Pad; which axes they have it leaves as they are written, unless these are all in order (checked with 1.32).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mlc.formats import constant, input_at, integers, text
from mlc.fusion import drop_unused_constant, is_standard
from passes._qdq import Writer

SCALES, SIZES = 2, 3
"""The inputs of a Resize that have an element for each axis, of which it has one."""

PLACES = 3
"""The input of a Pad that says which axes are padded."""


def all_axes(writer: Writer) -> None:
    """Write each Resize and Pad of a graph so, where the number of axes and which are meant is known."""
    for node in tuple(writer.graph):
        source = input_at(node, 0)
        if source is None or source.shape is None or not is_standard(node):
            continue
        rank = source.shape.rank()
        axes = [axis % rank for axis in _axes(node)]
        if node.op_type == "Resize" and axes and text(node, "keep_aspect_ratio_policy", "stretch") == "stretch":
            _resize(writer, node, axes, rank)
        elif node.op_type == "Pad" and axes:
            places = [*axes, *(axis + rank for axis in axes)]
            _spread(writer, node, 1, places, np.zeros(2 * rank, np.int64))
            given = node.inputs[PLACES]
            assert given is not None
            node.resize_inputs(PLACES)
            drop_unused_constant(given)


def _axes(node: ir.Node) -> Sequence[int]:
    if node.op_type == "Resize":
        return integers(node, "axes")
    given = _fixed(input_at(node, PLACES)) if node.op_type == "Pad" else None
    return [] if given is None else [int(axis) for axis in given.numpy()]


def _fixed(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return a constant that no caller may override, or None."""
    return None if value is None or value.is_graph_input() else constant(value)


def _resize(writer: Writer, node: ir.Node, axes: Sequence[int], rank: int) -> None:
    region = constant(input_at(node, 1))
    if input_at(node, 1) is not None and (region is None or region.size):
        return
    scales = input_at(node, SCALES)
    none = _fixed(scales)
    if scales is not None and (none is None or none.size):
        _spread(writer, node, SCALES, axes, np.ones(rank, np.float32))
    else:
        source = input_at(node, 0)
        assert source is not None
        sizes = writer.node("Shape", [source], f"{source.name}.sizes", ir.DataType.INT64, ir.Shape([rank]))
        writer.graph.insert_before(node, sizes)
        _spread(writer, node, SIZES, axes, sizes.outputs[0])
    del node.attributes["axes"]


def _spread(writer: Writer, node: ir.Node, index: int, places: Sequence[int], whole: np.ndarray | ir.Value) -> None:
    """Put what a node reads for some axes at their places in what there is for all."""
    given = input_at(node, index)
    assert given is not None
    known, name = _fixed(given), f"{given.name}.of_all_axes"
    if known is not None and isinstance(whole, np.ndarray):
        whole[list(places)] = known.numpy()
        node.replace_input_with(index, writer.constant(name, whole))
        drop_unused_constant(given)
        return
    if isinstance(whole, np.ndarray):
        whole = writer.constant(f"{name}.others", whole)
    chosen = writer.constant(f"{name}.places", np.array(places, np.int64))
    dtype = ir.DataType.FLOAT if index == SCALES else ir.DataType.INT64
    spread = writer.node("ScatterElements", [whole, chosen, given], name, dtype, whole.shape, axis=0)
    writer.graph.insert_before(node, spread)
    node.replace_input_with(index, spread.outputs[0])
