"""What passes ask of graphs and do to them: walking, shapes, constants, removal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.fusion.misinferred import is_misinferred

if TYPE_CHECKING:
    from mlc.types import Array

STANDARD = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""

TENSOR_FROM_SEQUENCE = frozenset({"ConcatFromSequence", "OptionalHasElement", "SequenceAt", "SequenceLength"})


def walk(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """Yield the main graph and all subgraphs, outer ones first, each with the prefix of the sites in it.

    The prefix of the main graph is empty, that of an If's branch ``y.then_branch/``, where y is the If's first output.
    """
    yield from _walk(model.graph, "")


def _walk(graph: ir.Graph, prefix: str) -> Iterator[tuple[str, ir.Graph]]:
    yield prefix, graph
    for node in list(graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _walk(attribute.as_graph(), f"{prefix}{node.outputs[0].name}.{attribute.name}/")


def is_standard(node: ir.Node) -> bool:
    """Whether a node is one of ONNX's own operators."""
    return node.domain in STANDARD


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node that makes a value where it is of one type of ONNX's own operators, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and is_standard(node) else None


def only_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads a value, once, or None; an output of the graph is read by the caller too."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def codes_dtype(value: ir.Value) -> ir.DataType | None:
    """Return the type of a value, or None; ONNX's inference of types does not know quantizers of other domains."""
    node = value.producer()
    if value.dtype is not None or node is None or node.op_type != "QuantizeLinear":
        return value.dtype
    zero_point = next(iter(node.inputs[2:]), None)
    return ir.DataType.UINT8 if zero_point is None else zero_point.dtype


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard operators that a model uses; 0 where it uses none."""
    return next((model.opset_imports[domain] for domain in STANDARD if domain in model.opset_imports), 0)


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is the same in every run: a tensor that no caller can override."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def array_of(value: ir.Value) -> Array:
    """Return the array of a constant value."""
    assert value.const_value is not None
    return value.const_value.numpy()


def infer_shapes(model: ir.Model) -> None:
    """Give values without one a dtype and shape, as far as ONNX can tell; what is known stays, the interface too.

    Where ONNX infers another size than onnxruntime gives, only the number of axes is told, behind it too.
    """
    given = (value for graph in model.graphs() for node in graph for value in node.outputs)
    taken = (value for graph in model.graphs() for value in graph.inputs)
    if all(map(_is_known, given)) and all(value.type is not None for value in taken):
        return
    from onnx_ir.passes.common import ShapeInferencePass

    inferred = model.clone()
    with quiet("onnx_ir.passes.common.shape_inference"):
        ShapeInferencePass(check_type=False, strict_mode=False)(inferred)
    sequences: set[ir.Value] = set()
    doubted: set[ir.Value] = set()
    for graph, twin in zip(model.graphs(), inferred.graphs(), strict=True):
        for node, other in zip(graph, twin, strict=True):
            if _may_give_sequences(node, sequences):
                sequences.update(node.outputs)
                continue
            if is_misinferred(other) or not doubted.isdisjoint(node.inputs):
                doubted.update(value for value in node.outputs if value.shape is None)
            for value, known in zip(node.outputs, other.outputs, strict=True):
                value.type = value.type if value.type is not None else known.type
                if value.shape is None and known.shape is not None:
                    rank = known.shape.rank()
                    value.shape = ir.Shape([None] * rank) if value in doubted else known.shape
    for graph in inferred.graphs():  # it waits for the collector, the weights that it shares must not
        for value in graph.initializers.values():
            value.const_value = None
    _type_bodies(model, sequences)


def _type_bodies(model: ir.Model, sequences: set[ir.Value]) -> None:
    """Give what the bodies of loops take the types of what these read: a model may leave them out (ONNX, Scan)."""
    for graph in model.graphs():
        for node in graph:
            if node.op_type in {"Loop", "Scan"} and is_standard(node):
                taken = node.attributes["body"].as_graph().inputs[2 if node.op_type == "Loop" else 0 :]
                for outer, inner in zip(node.inputs[len(node.inputs) - len(taken) :], taken, strict=False):
                    if inner.type is None and outer is not None and outer not in sequences:
                        inner.type = outer.type


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs right inside of a node: the branches of an If, the body of a loop."""
    return (each.as_graph() for each in node.attributes.values() if each.type == ir.AttributeType.GRAPH)


def has_subgraphs(node: ir.Node) -> bool:
    """Whether a node is an If, a loop, or has a graph inside in another way."""
    return any(True for _ in subgraphs(node))


def _is_known(value: ir.Value) -> bool:
    return not value.name or (value.type is not None and value.shape is not None)


def _may_give_sequences(node: ir.Node, sequences: set[ir.Value]) -> bool:
    """Whether a node's outputs may be sequences or optionals, which the inference takes for tensors."""
    if is_of_sequences(node):
        return node.op_type not in TENSOR_FROM_SEQUENCE
    if has_subgraphs(node):
        inside = (each for graph in subgraphs(node) for each in graph.all_nodes())
        return bool(sequences) or any(map(is_of_sequences, inside))
    return node.op_type == "Identity" and node.inputs[0] in sequences


def is_of_sequences(node: ir.Node) -> bool:
    """Whether an operator of ONNX makes or takes sequences or optionals by its name; ReverseSequence takes a tensor."""
    named = "Sequence" in node.op_type or "Optional" in node.op_type
    return is_standard(node) and named and node.op_type != "ReverseSequence"


def note_constants(model: ir.Model) -> None:
    """Let results of Constant nodes show their tensor as ``const_value``."""
    for graph in model.graphs():
        for node in graph:
            tensor = constant_tensor(node)
            if tensor is not None:
                node.outputs[0].const_value = tensor


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the tensor of a Constant node, whichever attribute holds it, or None."""
    if node.op_type != "Constant" or not is_standard(node) or len(node.attributes) != 1:
        return None
    (attribute,) = node.attributes.values()
    if attribute.is_ref() or attribute.name == "sparse_value":
        return None
    if attribute.name == "value":
        return attribute.as_tensor()
    if attribute.name in ("value_string", "value_strings"):
        text = attribute.value if attribute.name == "value_strings" else [attribute.value]
        array = np.array([part.encode() if isinstance(part, str) else part for part in text], dtype=object)
        return ir.StringTensor(array if attribute.name == "value_strings" else array.reshape(()))
    dtype = np.float32 if attribute.name in ("value_float", "value_floats") else np.int64
    return ir.tensor(np.array(attribute.value, dtype=dtype))


def drop_unused_constant(value: ir.Value) -> None:
    """Remove an initializer or a Constant node that nothing uses any more; what is in the interface stays."""
    if value.uses() or value.is_graph_output() or value.is_graph_input() or value.graph is None:
        return
    graph = value.graph
    producer = value.producer()
    if value.is_initializer() and value.name is not None:
        graph.initializers.pop(value.name)
    elif producer is not None and producer.op_type == "Constant":
        graph.remove([producer], safe=True)


def forget_subgraphs(node: ir.Node) -> None:
    """Let the nodes inside a removed node no longer count as readers of values outside."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in list(attribute.as_graph().all_nodes()):
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keep a library's warnings, which we answer for ourselves, off the terminal."""
    target = logging.getLogger(logger)
    before = target.disabled
    target.disabled = True
    try:
        yield
    finally:
        target.disabled = before
