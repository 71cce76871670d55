"""How many of the multiply-adds onnxruntime really does on integers, and which float operators stand in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from mlc.explaining.nouns import Between, IntegerShare, ProductShare
from mlc.formats import INTEGER_OPERATORS
from mlc.inspecting.arithmetic import multiply_adds, whole
from mlc.inspecting.precision import MOVES
from mlc.inspecting.shapes import Shape, values_at
from mlc.inspecting.skeleton import read_skeleton
from mlc.runtimes.optimized import optimized_graph

if TYPE_CHECKING:
    from mlc.workspace import Workspace

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

ROUNDS_INPUTS = 4
"""The accuracy_level of MatMulNBits that multiplies inputs of 8 bits."""


def arithmetic_of(path: Path, shapes: Mapping[str, Shape], workspace: Workspace) -> IntegerShare:
    """Count the multiply-adds of a model, as onnxruntime's CPU provider runs it, for inputs of these shapes.

    Raises TargetError where it does not load.
    """
    proto = read_skeleton(optimized_graph(path, workspace.folder("optimized"))).proto
    values = values_at(proto, shapes, _sizes(proto.graph, shapes))
    nodes: Counter[tuple[str, bool]] = Counter()
    products: Counter[tuple[str, bool]] = Counter()
    uncounted = 0
    for node in proto.graph.node:
        found = multiply_adds(node, values)
        if isinstance(found, str):
            uncounted += 1
        elif found:
            nodes[node.op_type, _integer(node)] += 1
            products[node.op_type, _integer(node)] += found
    shares = (ProductShare(op, nodes[op, integer], count, integer) for (op, integer), count in products.most_common())
    return IntegerShare(tuple(shares), tuple(_between(proto.graph)), uncounted)


def _sizes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> dict[str, int]:
    return {
        dim.dim_param: size
        for value in graph.input
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False)
        if dim.dim_param
    }


def _integer(node: onnx.NodeProto) -> bool:
    rounds = node.op_type == "MatMulNBits" and whole(node, "accuracy_level") == ROUNDS_INPUTS
    return node.op_type in INTEGER_OPERATORS or rounds


def _between(graph: onnx.GraphProto) -> Iterable[Between]:
    """Return the float nodes that read what codes mean, and that a quantizer reads in turn, through other float nodes.

    Those that only move elements are left out.
    """
    constants = {tensor.name for tensor in graph.initializer}
    floats: set[str] = set()
    behind: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == DEQUANTIZE and node.input[0] not in constants:
            floats.update(node.output)
        elif node.op_type != QUANTIZE and node.op_type not in INTEGER_OPERATORS and floats.intersection(node.input):
            floats.update(node.output)
            behind.append(node)
    wanted = {node.input[0] for node in graph.node if node.op_type in {QUANTIZE, "DynamicQuantizeLinear"}}
    found: list[Between] = []
    for node in reversed(behind):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found += [] if node.op_type in MOVES else [Between(node.output[0], node.op_type)]
    return reversed(found)
