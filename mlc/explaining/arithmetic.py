"""How many of the multiply-adds onnxruntime really does on integers, and which float operators stand in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from mlc.explaining.nouns import Between, IntegerShare, ProductShare
from mlc.formats import INTEGER_OPERATORS
from mlc.inspecting.arithmetic import CONTRIB_RULES, RULES, Count, multiply_adds
from mlc.inspecting.precision import MOVES
from mlc.inspecting.shapes import STANDARD, Shape, Values, branch_values, values_at, whole
from mlc.inspecting.skeleton import graphs_of, read_skeleton
from mlc.runtimes.optimized import optimized_graph

if TYPE_CHECKING:
    from mlc.types import Arrays
    from mlc.workspace import Workspace

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

ROUNDS_INPUTS = 4
"""The accuracy_level of MatMulNBits that multiplies inputs of 8 bits."""

IN_LOOP = "how often its loop runs is not known"


def arithmetic_of(path: Path, shapes: Mapping[str, Shape], workspace: Workspace) -> IntegerShare:
    """Count the multiply-adds of a model, as onnxruntime's CPU provider runs it, for inputs of these shapes.

    Those of branches count too, as if each were taken once. Shapes behind operators that only the runtime has, and that
    ONNX has no rule for, are those of the values of the same name in the model. Raises TargetError where it does not
    load.
    """
    written = read_skeleton(path).proto
    proto = read_skeleton(optimized_graph(path, workspace.folder("optimized"))).proto
    known = values_at(written, shapes, _sizes(written.graph, shapes))
    nodes: Counter[tuple[str, bool]] = Counter()
    products: Counter[tuple[str, bool]] = Counter()
    uncounted = 0
    for _, node, found in _counted(proto, shapes, known):
        if isinstance(found, str):
            uncounted += 1
        elif found:
            nodes[node.op_type, _integer(node)] += 1
            products[node.op_type, _integer(node)] += found
    shares = (ProductShare(op, nodes[op, integer], count, integer) for (op, integer), count in products.most_common())
    graphs = list(graphs_of(proto.graph))
    constants = {tensor.name for graph in graphs for tensor in graph.initializer}
    sites = {node.name: node.output[0] for graph in graphs_of(written.graph) for node in graph.node if node.name}
    between = (each for graph in graphs for each in _between(graph, constants, sites))
    branches = any(_is_if(node) for graph in graphs for node in graph.node)
    return IntegerShare(tuple(shares), tuple(between), uncounted, branches)


def work_of(model: ir.Model, inputs: Arrays) -> Iterator[tuple[str, int]]:
    """Yield the sites of a graph whose multiply-adds are known for these inputs, and how many they are.

    They are counted in the graph as it is, with none for what moves or changes single elements.
    """
    shapes = {name: np.shape(array) for name, array in inputs.items()}
    for site, _, found in _counted(ir.to_proto(model), shapes):
        if isinstance(found, int):
            yield site, found


def _counted(
    proto: onnx.ModelProto, shapes: Mapping[str, Shape], elsewhere: Values | None = None
) -> Iterator[tuple[str, onnx.NodeProto, Count]]:
    """Yield the nodes of the main graph and of branches, and those of loops that multiply, each with what is known."""
    sizes = _sizes(proto.graph, shapes)

    def within(graph: onnx.GraphProto, values: Values, prefix: str) -> Iterator[tuple[str, onnx.NodeProto, Count]]:
        for node in graph.node:
            site = f"{prefix}{next(filter(None, node.output), '')}"
            yield site, node, multiply_adds(node, values)
            for attribute in (attribute for attribute in node.attribute if attribute.HasField("g")):
                inner, place = attribute.g, f"{site}.{attribute.name}/"
                if _is_if(node):
                    yield from within(inner, branch_values(values, inner, proto.opset_import, sizes), place)
                    continue
                repeated = (each for nested in graphs_of(inner) for each in nested.node)
                yield from ((place, each, IN_LOOP) for each in repeated if each.op_type in {*RULES, *CONTRIB_RULES})

    yield from within(proto.graph, values_at(proto, shapes, sizes, elsewhere), "")


def _is_if(node: onnx.NodeProto) -> bool:
    return node.op_type == "If" and node.domain in STANDARD


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


def _between(graph: onnx.GraphProto, constants: Collection[str], sites: Mapping[str, str]) -> Iterable[Between]:
    """Return the float nodes that read what codes mean, and that a quantizer reads in turn, through other float nodes.

    Those that only move elements are left out. ``sites`` has what the nodes of the model give by their names: the
    runtime calls it otherwise where it moved a quantizer behind it.
    """
    known = set(sites.values())
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
            site = node.output[0] if node.output[0] in known else sites.get(node.name, node.output[0])
            found += [] if node.op_type in MOVES else [Between(site, node.op_type)]
    return reversed(found)
