"""Graphs with further outputs, and how many of them fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.errors import UsageError
from mlc.fusion import Names, Places, codes_dtype

if TYPE_CHECKING:
    from mlc.workspace import Workspace

BUDGET = 512 * 2**20
"""Bytes of activations that are held at once."""

NOTHING = ir.tensor(np.zeros(0, np.float32))
"""What stands for a value of a branch that is not taken."""


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Return the inputs and the computed values of the main graph, in the order in which they come to be."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {value.name: value for value in values if value.name}


def observable(model: ir.Model) -> dict[str, ir.Value]:
    """Return what ``values_by_name`` does and, by their places, the values of branches, in order.

    Those of loops are left out: one comes about several times a run, and need not be of one shape.
    """
    places = Places(model)
    values = [*model.graph.inputs, *_computed(model.graph, places.once)]
    return {places.name(value): value for value in values if value.name}


def _computed(graph: ir.Graph, within: Collection[ir.Graph]) -> Iterator[ir.Value]:
    """Yield what the nodes of a graph compute and, before what holds them, those of graphs inside that are named."""
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.value in within:
                yield from _computed(attribute.as_graph(), within)
        yield from node.outputs


def tapped(model: ir.Model, names: Sequence[str], workspace: Workspace) -> Path:
    """Write the model with the named values as its only outputs, and nothing that they do not need.

    A value of a branch that is not taken has no element then: it is a float of shape [0].
    """
    copy = model.clone()
    values, places, free = observable(copy), Places(copy), Names.of(copy)
    taps = [_brought_out(values[name], name, places, free) for name in names if not values[name].is_graph_input()]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(taps or list(values.values())[-1:])
    for value in copy.graph.outputs:
        if value.type is None:
            value.type = ir.TensorType(codes_dtype(value) or ir.DataType.FLOAT)
    for node in reversed(copy.graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            copy.graph.remove(node, safe=True)
    return workspace.save(copy, "tapped")


def _brought_out(value: ir.Value, name: str, places: Places, free: Names) -> ir.Value:
    """Return a value of the main graph as it is, and one of a branch as a further output of every If around it."""
    graph = value.graph
    while graph in places.holders:
        holder = places.holders[graph]
        for attribute in holder.attributes.values():
            branch = attribute.as_graph()
            given = ir.node("Identity", [value]) if branch is graph else ir.node("Constant", [], {"value": NOTHING})
            given.outputs[0].name = free.free(name)
            branch.append(given)
            branch.outputs.append(given.outputs[0])
        holder.resize_outputs(len(holder.outputs) + 1)
        value, graph = holder.outputs[-1], holder.graph
        value.name = free.free(name)
    value.name = name
    return value


def in_chunks(model: ir.Model, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Split value names, in the order of computation, so that each part fits into ``BUDGET`` at the given input shapes.

    Sizes that cannot be known beforehand count as 1. Raises UsageError for a name that the model does not have.
    """
    values = observable(model)
    for name in names:
        if name not in values:
            raise UsageError(f"the model has no value called {name!r}", "statistics are of values outside of loops")
    wanted = set(names)
    sizes = symbol_sizes(model, shapes)
    chunk: list[str] = []
    held = 0
    for name in (name for name in values if name in wanted):
        needed = _bytes(values[name], sizes)
        if chunk and held + needed > BUDGET:
            yield chunk
            chunk, held = [], 0
        chunk.append(name)
        held += needed
    if chunk:
        yield chunk


def symbol_sizes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the size of each symbolic dim of the inputs."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.shape is None or value.name is None or value.name not in shapes:
            continue
        for dim, size in zip(value.shape, shapes[value.name], strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                found[dim.value] = size
    return found


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    if value.shape is None:
        return 0
    return 4 * math.prod(dim if isinstance(dim, int) else sizes.get(dim.value or "", 1) for dim in value.shape)
