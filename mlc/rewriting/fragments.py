"""Graphs made to judge others: the graph before with every replacement beside it, and subgraphs on their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from mlc.compare.decisions import captured, cone, graph_values, used_values
from mlc.fusion import is_constant

AFTER = "after::"
"""Prefix of what comes from the graph after a pass, inside the graph that judges."""


@dataclass(frozen=True)
class Beside:
    """A model whose outputs are values of the graph before and their replacements, both computed from before-values.

    ``constants`` holds what needs no run, by output name.
    """

    model: ir.Model
    constants: dict[str, ir.TensorProtocol]


def beside(before: ir.Model, after: ir.Model, changed: Iterable[str], wanted: Iterable[str] = ()) -> Beside:
    """Put the replacement of each changed value beside the graph before.

    The result has the outputs ``v`` and ``after::v`` for each changed value, and ``v`` for each further one that is
    wanted; nodes that none of them needs are left out.
    """
    old, new = before.clone(), after.clone()
    old_values, new_values = _by_name(old.graph), _by_name(new.graph)
    new.graph.outputs.clear()
    for name, value in new_values.items():
        if name in old_values:
            value.replace_all_uses_with(old_values[name], replace_graph_outputs=True)
    names = list(changed)
    _move(new.graph, old.graph, [new_values[name] for name in names])
    for domain, version in new.opset_imports.items():
        old.opset_imports.setdefault(domain, version)
    for key, function in new.functions.items():
        old.functions.setdefault(key, function)
    outputs = {name: old_values[name] for name in (*names, *wanted) if name in old_values}
    outputs |= {AFTER + name: new_values[name] for name in names}
    constants = {name: value.const_value for name, value in outputs.items() if is_initializer(value)}
    old.graph.outputs.clear()
    old.graph.outputs.extend(value for name, value in outputs.items() if name not in constants and not _is_input(value))
    prune(old.graph)
    return Beside(old, {name: tensor for name, tensor in constants.items() if tensor is not None})


def alone(model: ir.Model, node_output: str, attribute: str) -> tuple[ir.Model, list[str], list[str]]:
    """Return one subgraph as a model of its own, the names of its own inputs, and those that it takes from around it.

    Constants around it become its initializers. The inputs have no types yet: see ``type_inputs``.
    """
    clone = model.clone()
    node = next(node for node in clone.graph if node.outputs and node.outputs[0].name == node_output)
    graph = node.attributes[attribute].as_graph()
    inside = {graph, *graph.subgraphs()}
    for other in clone.graphs():
        if other not in inside:
            other.outputs.clear()
    own = [str(value.name) for value in graph.inputs]
    taken = []
    for value in captured(graph):
        stand_in = ir.Value(name=value.name, type=value.type)
        if is_initializer(value):
            stand_in.const_value, stand_in.shape = value.const_value, value.shape
            value.replace_all_uses_with(stand_in, replace_graph_outputs=True)
            graph.register_initializer(stand_in)
            continue
        value.replace_all_uses_with(stand_in, replace_graph_outputs=True)
        graph.inputs.append(stand_in)
        taken.append(str(value.name))
    graph.opset_imports.update(clone.opset_imports)
    functions = list(clone.functions.values())
    return ir.Model(graph, ir_version=clone.ir_version, functions=functions), own, taken


def prune(graph: ir.Graph) -> None:
    """Remove nodes and initializers that no output needs; inputs stay."""
    needed = cone(graph.outputs)
    unneeded = [node for node in graph if node not in needed]
    graph.remove(unneeded)
    for node in unneeded:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    used = {value for node in graph for value in used_values(node)} | set(graph.outputs)
    for name, value in list(graph.initializers.items()):
        if value not in used and not value.is_graph_input():
            graph.initializers.pop(name)


def is_initializer(value: ir.Value) -> bool:
    """Whether a value is a weight that no caller can override (a constant that no node gives)."""
    return value.producer() is None and is_constant(value)


def _is_input(value: ir.Value) -> bool:
    return value.is_graph_input()


def _by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    return {str(value.name): value for value in graph_values(graph)}


def _move(source: ir.Graph, target: ir.Graph, values: Collection[ir.Value]) -> None:
    """Move what the values need from one graph to another, under names that cannot meet others."""
    needed = cone(values)
    nodes = [node for node in source if node in needed]
    used = {value for node in nodes for value in used_values(node)}
    for name, value in list(source.initializers.items()):
        if value in used and not value.is_graph_input():
            source.initializers.pop(name)
            value.name = AFTER + name
            target.register_initializer(value)
    source.remove(nodes)
    for node in nodes:
        node.name = AFTER + node.name if node.name else None  # unnamed ones must not become ones of one name
        for output in node.outputs:
            output.name = AFTER + output.name if output.name else None
    target.extend(nodes)


def type_inputs(model: ir.Model, dtypes: dict[str, tuple[ir.DataType, int]]) -> None:
    """Give the inputs of a model their dtype and rank; sizes stay open."""
    for value in model.graph.inputs:
        dtype, rank = dtypes[str(value.name)]
        value.type, value.shape = ir.TensorType(dtype), ir.Shape([None] * rank)
