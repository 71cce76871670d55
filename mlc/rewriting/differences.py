"""What a pass really changed: values that two graphs have by name but compute differently.

A name that survives a pass keeps its value: that is what makes a graph judgeable piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from mlc.compare.decisions import graph_values


@dataclass(frozen=True)
class Nested:
    """A subgraph that differs: it belongs to the node with this first output, under this attribute."""

    node: str
    attribute: str


def changed_values(before: ir.Graph, after: ir.Graph) -> list[str]:
    """Return the names of values that both graphs have and that come about differently, in the order of ``after``."""
    old = {value.name: value for value in graph_values(before)}
    return [value.name for value in graph_values(after) if value.name in old and not _same(old[value.name], value)]  # type: ignore[misc]


def changed_subgraphs(before: ir.Graph, after: ir.Graph) -> list[Nested]:
    """Return the subgraphs of nodes that both graphs have, where they differ."""
    old = {node.outputs[0].name: node for node in before if node.outputs}
    found = []
    for node in after:
        twin = old.get(node.outputs[0].name) if node.outputs else None
        if twin is None or twin.op_identifier() != node.op_identifier():
            continue
        for name, graph in subgraphs(node):
            other = twin.attributes.get(name)
            if other is not None and other.type == ir.AttributeType.GRAPH and not same_graph(other.as_graph(), graph):
                found.append(Nested(str(node.outputs[0].name), name))
    return found


def subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """Yield the subgraphs of a node with the attributes that hold them."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.name, attribute.as_graph()


def same_model(model: ir.Model, other: ir.Model) -> bool:
    """Whether two models are the same: nodes in order, names, attributes, every weight's bytes."""
    return (
        same_graph(model.graph, other.graph)
        and model.opset_imports == other.opset_imports
        and list(model.functions) == list(other.functions)
        and all(same_graph(function.graph, other.functions[key].graph) for key, function in model.functions.items())
    )


def same_graph(graph: ir.Graph, other: ir.Graph) -> bool:
    """Whether two graphs are the same: interface, nodes in order, attributes, weights."""
    return (
        _names(graph.inputs) == _names(other.inputs)
        and _names(graph.outputs) == _names(other.outputs)
        and list(graph.initializers) == list(other.initializers)
        and len(graph) == len(other)
        and all(
            same_tensor(value.const_value, other.initializers[name].const_value)
            for name, value in graph.initializers.items()
        )
        and all(_same_node(node, twin) for node, twin in zip(graph, other, strict=True))
    )


def same_tensor(tensor: ir.TensorProtocol | None, other: ir.TensorProtocol | None) -> bool:
    """Whether two tensors have the same dtype, shape and bytes; the same object needs no look."""
    if tensor is other or tensor is None or other is None:
        return tensor is other
    if tensor.dtype != other.dtype or tuple(tensor.shape.numpy()) != tuple(other.shape.numpy()):
        return False
    if tensor.dtype == ir.DataType.STRING:
        return bool((tensor.numpy() == other.numpy()).all())
    if isinstance(tensor, ir.ExternalTensor) and isinstance(other, ir.ExternalTensor):
        places = [(str(part.path), part.offset, part.length) for part in (tensor, other)]
        if places[0] == places[1]:
            return True
    return tensor.tobytes() == other.tobytes()


def _names(values: Iterable[ir.Value]) -> list[str | None]:
    return [value.name for value in values]


def _same(old: ir.Value, new: ir.Value) -> bool:
    if old.is_graph_input() or new.is_graph_input():
        both = old.is_graph_input() and new.is_graph_input()
        return both and same_tensor(old.const_value, new.const_value)
    first, second = old.producer(), new.producer()
    if first is None or second is None:
        return first is second and same_tensor(old.const_value, new.const_value)
    return old.index() == new.index() and _same_node(first, second)


def _same_node(node: ir.Node, other: ir.Node) -> bool:
    return (
        node.op_identifier() == other.op_identifier()
        and [value and value.name for value in node.inputs] == [value and value.name for value in other.inputs]
        and len(node.outputs) == len(other.outputs)
        and list(_names(node.outputs)) == list(_names(other.outputs))
        and set(node.attributes) == set(other.attributes)
        and all(_same_attribute(attribute, other.attributes[name]) for name, attribute in node.attributes.items())
    )


def _same_attribute(attribute: ir.Attr, other: ir.Attr) -> bool:
    if attribute is other:
        return True
    if attribute.type != other.type or attribute.is_ref() != other.is_ref():
        return False
    if attribute.is_ref():
        return attribute.ref_attr_name == other.ref_attr_name
    if attribute.type == ir.AttributeType.GRAPH:
        return same_graph(attribute.as_graph(), other.as_graph())
    if attribute.type == ir.AttributeType.TENSOR:
        return same_tensor(attribute.as_tensor(), other.as_tensor())
    return repr(attribute.value) == repr(other.value)
