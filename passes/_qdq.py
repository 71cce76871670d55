"""Writing QuantizeLinear and DequantizeLinear nodes into a graph, every name once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnx_ir as ir

from mlc.formats import FOLDING, Affine, carries, number, upper_bound
from mlc.fusion import Names, drop_unused_constant
from passes._codes import Coded


@dataclass(frozen=True)
class Shared:
    """Scale and zero point, and the value after which their initializers are named."""

    leader: ir.Value
    affine: Affine


class Writer:
    """Adds initializers and nodes to the main graph of a model, or to a branch or body of a loop in it."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.names = Names.of(model)

    def inside(self, graph: ir.Graph) -> Self:
        """Return a writer into another graph of the model.

        onnxruntime joins codes with what reads them where both lie in one graph. Codes of 4 bits that a branch takes
        from around it, to dequantize them for one product, are an error when it loads.
        """
        writer = copy(self)
        writer.graph = graph
        return writer

    def constant(self, wanted: str, array: np.ndarray) -> ir.Value:
        """Add an initializer."""
        name = self.names.free(wanted)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def parameters(self, wanted: str, affine: Affine) -> tuple[ir.Value, ir.Value]:
        """Add the scale and the zero point of a tensor of activations."""
        scale = self.constant(f"{wanted}.scale", np.array(affine.scale, np.float32))
        return scale, self.constant(f"{wanted}.zero_point", np.array(affine.zero_point, np.uint8))

    def pair(self, source: ir.Value, like: ir.Value, parameters: tuple[ir.Value, ir.Value]) -> list[ir.Node]:
        """Return the nodes that quantize ``source`` and dequantize it again, named after ``like``."""
        stem = like.name or ""
        quantize = self.node(
            "QuantizeLinear", [source, *parameters], f"{stem}.quantized", ir.DataType.UINT8, like.shape
        )
        codes = quantize.outputs[0]
        wanted = f"{stem}.dequantized"
        return [quantize, self.node("DequantizeLinear", [codes, *parameters], wanted, ir.DataType.FLOAT, like.shape)]

    def node(
        self,
        op: str,
        inputs: Iterable[ir.Value],
        output: str,
        dtype: ir.DataType,
        shape: ir.Shape | None,
        **attributes: int | list[int],
    ) -> ir.Node:
        """Return a new node with one output; the node's name is the output's."""
        name = self.names.free(output)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=None if shape is None else shape.copy())
        return ir.node(op, list(inputs), attributes, outputs=[value], name=name)

    def insert_behind(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        """Insert nodes behind what gives a value, or first of all where that is around the graph."""
        producer = value.producer()
        if producer is not None and producer.graph is self.graph:
            self.graph.insert_after(producer, nodes)
        else:
            self.graph.insert_before(self.graph[0], nodes)

    def reweigh(self, node: ir.Node, index: int, array: np.ndarray, role: str) -> None:
        """Let a node read another float32 constant, named after the old one, which goes if nobody else reads it."""
        old = node.inputs[index]
        assert old is not None
        node.replace_input_with(index, self.constant(f"{old.name}.{role}", array.astype(np.float32)))
        drop_unused_constant(old)

    def take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Put ``new`` in the place of the only output of a node, under its name, and remove the node."""
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        self.remove(old.producer())
        new.name = old.name

    def remove(self, node: ir.Node | None) -> None:
        """Remove a node whose outputs nobody reads, and the constants that only it has read."""
        assert node is not None
        assert node.graph is not None
        inputs = [value for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
        for value in dict.fromkeys(inputs):
            drop_unused_constant(value)


def is_fold(node: ir.Node | None) -> bool:
    """Whether a node is a Relu or Clip, which an int8 graph leaves to the quantizer."""
    return node is not None and node.op_type in FOLDING


def clamps_alike(value: ir.Value, codes: Affine) -> bool:
    """Whether the lowest and the highest code do what the Relu and Clip before a value do, to half a step."""
    node = value.producer()
    while is_fold(node):
        assert node is not None
        if codes.zero_point != 0 or not upper_bound(node) >= codes.high - codes.scale / 2:
            return False
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return True


def write_activations(
    writer: Writer,
    nodes: list[ir.Node],
    coded: Mapping[ir.Value, Coded],
    parameters: Mapping[ir.Value, Shared],
) -> None:
    """Put a quantizer and a dequantizer behind every coded value, in place of a Relu or Clip where one computes it.

    All nodes are of the writer's graph; a value from around it is quantized for this graph alone.
    """
    chosen = set(nodes)
    for node in nodes:
        if is_fold(node) and node.outputs[0] not in coded:
            _bypass(writer, node)
    written: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for value, item in coded.items():
        shared = parameters[value]
        if shared.leader not in written:
            written[shared.leader] = writer.parameters(shared.leader.name or "", shared.affine)
        producer = value.producer()
        if item.native and producer is not None and producer.op_type == "ReduceMean":
            _average(writer, producer, written[shared.leader])
        if not item.native:
            _quantize_for(writer, value, written[shared.leader], chosen)
        elif is_fold(value.producer()):
            _replace_fold(writer, value, written[shared.leader])
        else:
            _quantize_native(writer, value, written[shared.leader])


def _bypass(writer: Writer, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    node.outputs[0].replace_all_uses_with(source)
    writer.remove(node)


def _replace_fold(writer: Writer, value: ir.Value, parameters: tuple[ir.Value, ir.Value]) -> None:
    """``Relu -> v`` becomes ``QuantizeLinear -> DequantizeLinear -> v``: the lowest code cuts where the Relu does."""
    node = value.producer()
    assert node is not None
    source = node.inputs[0]
    assert source is not None
    pair = writer.pair(source, value, parameters)
    writer.graph.insert_before(node, pair)
    writer.take_over(value, pair[-1].outputs[0])


def _average(writer: Writer, node: ir.Node, parameters: tuple[ir.Value, ir.Value]) -> None:
    """Turn a mean over the image into GlobalAveragePool, which has an integer kernel, and a Squeeze of its codes."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    assert source.shape is not None
    axes = [value for value in node.inputs[1:] if value is not None]
    keeps = bool(number(node, "keepdims", 1))
    node.attributes.clear()
    node.resize_inputs(1)
    for value in axes:
        drop_unused_constant(value)
    if keeps:
        node.op_type = "GlobalAveragePool"
        return
    spatial = range(2, source.shape.rank())
    shape = ir.Shape([*source.shape[:2], *(1 for _ in spatial)])
    pooled = writer.node("GlobalAveragePool", [source], f"{output.name}.pooled", ir.DataType.FLOAT, shape)
    pair = writer.pair(pooled.outputs[0], pooled.outputs[0], parameters)
    writer.graph.insert_before(node, [pooled, *pair])
    node.op_type = "Squeeze"
    node.resize_inputs(2)
    node.replace_input_with(0, pair[-1].outputs[0])
    node.replace_input_with(1, writer.constant(f"{output.name}.axes", np.array(list(spatial), np.int64)))


def _quantize_native(writer: Writer, value: ir.Value, parameters: tuple[ir.Value, ir.Value]) -> None:
    """Everyone reads the dequantized value; a graph output keeps its name."""
    node = value.producer()
    assert node is not None
    name, output = value.name or "", value.is_graph_output()
    pair = writer.pair(value, value, parameters)
    writer.graph.insert_after(node, pair)
    quantizer, result = pair[0], pair[-1].outputs[0]
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    quantizer.replace_input_with(0, value)
    if output:
        value.name, result.name = writer.names.free(f"{name}.float"), name


def _quantize_for(writer: Writer, value: ir.Value, parameters: tuple[ir.Value, ir.Value], chosen: set[ir.Node]) -> None:
    """Only int8 nodes read the dequantized value: it is exact for everyone else."""
    pair = writer.pair(value, value, parameters)
    writer.insert_behind(value, pair)
    for user, index in tuple(value.uses()):
        if user in chosen and not is_fold(user) and carries(user, index):
            user.replace_input_with(index, pair[-1].outputs[0])
