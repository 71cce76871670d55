"""Graphs in float16 as graphs in float32: of the same numbers, and with every value rounded behind its operator."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from mlc.fusion import infer_shapes, note_constants, walk, written_out
from mlc.fusion.base import Names

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

TYPES = frozenset({"dtype", "output_datatype", "output_dtype", "to"})
"""Attributes that hold the type of a result."""


def computes_half(model: ir.Model) -> bool:
    """Whether a node gives float16; weights that are stored in it and widened before they are read do not count."""
    return any(
        value.dtype == HALF
        for graph in _typed(model).graphs()
        for node in graph
        for value in node.outputs
        if node.op_type != "Constant"
    )


def widened(model: ir.Model) -> tuple[ir.Model, set[ir.Value]]:
    """Return a clone with float32 in the place of float16, and the values that nodes gave in float16.

    Weights keep their numbers; what the nodes compute is no longer rounded. Inputs of the model keep their type and are
    cast. Functions of the model are written out, but for those of another opset, in which nothing changes.
    """
    clone = _typed(model)
    _cast_inputs(clone.graph, Names.of(clone))
    given = set(clone.graph.inputs)
    halves: set[ir.Value] = set()
    for _, graph in walk(clone):
        for value in {*graph.inputs, *graph.initializers.values()} - given:
            _widen(value)
        for node in graph:
            halves.update(value for value in node.outputs if value.name and value.dtype == HALF)
            for value in node.outputs:
                _widen(value)
            _widen_attributes(node)
    note_constants(clone)
    return clone, {value for value in halves if value.const_value is None}


def _typed(model: ir.Model) -> ir.Model:
    """Return a clone with functions written out, each of whose values has a type as far as ONNX can tell."""
    clone = written_out(model)
    infer_shapes(clone)
    return clone


def _cast_inputs(graph: ir.Graph, names: Names) -> None:
    for value in graph.inputs:
        uses = tuple(value.uses()) if value.dtype == HALF else ()
        if uses:
            cast = ir.node("Cast", [value], {"to": int(FLOAT)}, name=names.free(f"{value.name}.float"))
            wide = cast.outputs[0]
            wide.name, wide.type, wide.shape = cast.name, ir.TensorType(FLOAT), value.shape
            for use in uses:
                use.node.replace_input_with(use.idx, wide)
            graph.insert_before(graph[0], cast)


def _widen(value: ir.Value) -> None:
    if value.dtype == HALF:
        value.type = copy.deepcopy(value.type)
        value.dtype = FLOAT
    if value.const_value is not None and value.const_value.dtype == HALF:
        value.const_value = _wide(value.const_value)


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(np.asarray(tensor.numpy(), np.float32), name=tensor.name)


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if name in TYPES and attribute.type == ir.AttributeType.INT and attribute.as_int() == HALF:
            node.attributes[name] = ir.AttrInt64(name, int(FLOAT))
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == HALF:
            node.attributes[name] = ir.AttrTensor(name, _wide(attribute.as_tensor()))


def round_values(model: ir.Model, halves: Collection[ir.Value]) -> None:
    """Put a Cast to float16 and one back behind each of these values; the rounded one takes its name.

    Of an output of the model the float16 form takes the name, so that the interface is that of the float16 graph.
    """
    names = Names.of(model)
    for graph in list(model.graphs()):
        for node in list(graph):
            for value in node.outputs:
                if value in halves:
                    _round(graph, node, value, names, is_output=value in model.graph.outputs)


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value, names: Names, *, is_output: bool) -> None:
    name = value.name or ""
    casts = []
    source = value
    for dtype in (HALF, FLOAT):
        cast = ir.node("Cast", [source], {"to": int(dtype)}, name=names.free(f"{name}.{dtype.name.lower()}"))
        source = cast.outputs[0]
        source.name, source.type, source.shape = cast.name, ir.TensorType(dtype), value.shape
        casts.append(cast)
    half = casts[0].outputs[0]
    for index, output in enumerate(graph.outputs):
        if is_output and output is value:
            graph.outputs[index] = half
    value.replace_all_uses_with(source, replace_graph_outputs=True)
    casts[0].replace_input_with(0, value)
    graph.insert_after(node, casts)
    value.name = names.free(f"{name}.exact")
    (half if is_output else source).name = name
