"""Graphs with further outputs, and how many of them fit into memory at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlc.errors import UsageError

if TYPE_CHECKING:
    from mlc.workspace import Workspace

BUDGET = 512 * 2**20
"""Bytes of activations that are held at once."""


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Return the inputs and the computed values of the main graph, in the order in which they come to be."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {value.name: value for value in values if value.name}


def tapped(model: ir.Model, names: Sequence[str], workspace: Workspace) -> Path:
    """Write the model with the named values as its only outputs, and nothing that they do not need."""
    copy = model.clone()
    values = values_by_name(copy)
    taps = [values[name] for name in names if not values[name].is_graph_input()]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(taps or list(values.values())[-1:])
    for value in copy.graph.outputs:
        if value.type is None:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in reversed(copy.graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            copy.graph.remove(node, safe=True)
    return workspace.save(copy, "tapped")


def in_chunks(model: ir.Model, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Split value names, in the order of computation, so that each part fits into ``BUDGET`` at the given input shapes.

    Sizes that cannot be known beforehand count as 1. Raises UsageError for a name that the model does not have.
    """
    values = values_by_name(model)
    for name in names:
        if name not in values:
            raise UsageError(f"the model has no value called {name!r}", "statistics are of values of the main graph")
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
