"""Numbers of 16 bits in the place of float32: which nodes have them, how large values are, what rounding costs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.emulate.saturation import stored_array
from mlc.explaining.codes import Seen
from mlc.explaining.nouns import Kept, TensorError
from mlc.formats.nodes import input_at, site_of
from mlc.fusion import walk
from mlc.runtimes.onnxruntime import open_session
from mlc.statistics import valid_rows
from mlc.statistics.taps import in_chunks, tapped
from mlc.types import FLOAT, Target

if TYPE_CHECKING:
    from mlc.statistics import Batches
    from mlc.types import Array, Plan
    from mlc.workspace import Workspace

HIGHEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: (2 - 2.0**-7) * 2.0**127}
"""The largest number of each type of 16 bits."""


@dataclass(frozen=True)
class Rounding:
    """The numbers that a type of 16 bits has."""

    dtype: ir.DataType

    @property
    def lowest(self) -> float:
        """The smallest number."""
        return -self.highest

    @property
    def highest(self) -> float:
        """The largest number."""
        return HIGHEST[self.dtype]

    def rounded(self, values: Array) -> Array:
        """Return the nearest numbers in float32, of what is larger than all the largest."""
        stored: Array = values.clip(self.lowest, self.highest).astype(self.dtype.numpy())
        return stored.astype(np.float32)

    def outside(self, values: Array) -> int:
        """Count the finite values that become infinite."""
        return int((np.isfinite(values) & (np.abs(values) > self.highest)).sum())


@dataclass(frozen=True)
class Halved:
    """A node of the float graph and the one that gives its values from 16 bits, or from weights that are stored so."""

    node: ir.Node
    twin: ir.Node


def halved_nodes(before: ir.Model, after: ir.Model) -> dict[str, Halved]:
    """Return the nodes that compute in 16 bits or read such weights and did not before, by site, subgraphs too.

    Both graphs have the types of their values.
    """
    graphs = dict(walk(after))
    found = {}
    for prefix, graph in walk(before):
        makers = {value.name: node for node in graphs.get(prefix, ()) for value in node.outputs if value.name}
        for node in graph:
            twin = _computing(makers.get(site_of(node)))
            if twin is not None and twin.op_type == node.op_type and _has_halves(twin) and not _has_halves(node):
                found[f"{prefix}{site_of(node)}"] = Halved(node, twin)
    return found


def half_errors(
    before: ir.Model, after: ir.Model, found: Mapping[str, Halved], batches: Batches, workspace: Workspace
) -> tuple[TensorError, ...]:
    """Return how large each value in 16 bits is in the float graph, and what rounding it alone costs; weights too.

    Values inside of branches and loops are not looked at, their weights are.
    """
    return (*_activations(before, after, found, batches, workspace), *_weights(found))


def kept_nodes(before: ir.Model, others: Collection[str], plan: Plan | None) -> tuple[Kept, ...]:
    """Return the nodes that give float32 beside ``others``, with the reasons where a plan has them."""
    reasons = {} if plan is None else {entry.node: entry.reason for entry in plan.nodes if entry.format == FLOAT}
    return tuple(
        Kept(site, node.op_type, reasons.get(site, ""))
        for prefix, graph in walk(before)
        for node in graph
        if node.op_type != "Constant" and any(value.dtype == ir.DataType.FLOAT for value in node.outputs)
        if (site := f"{prefix}{site_of(node)}") not in others
    )


def _computing(node: ir.Node | None) -> ir.Node | None:
    """Return the node itself, or the one whose result in 16 bits it only widens."""
    source = input_at(node, 0) if node is not None and node.op_type == "Cast" else None
    widens = source is not None and source.dtype in HIGHEST and source.producer() is not None
    return source.producer() if widens and source is not None else node


def _has_halves(node: ir.Node) -> bool:
    values = (value for value in (*node.inputs, *node.outputs) if value is not None)
    return any(value.dtype in HIGHEST for value in values) or any(_stored(value) is not None for value in node.inputs)


def _stored(value: ir.Value | None) -> ir.Value | None:
    """Return the constant of 16 bits that a node reads, or reads widened."""
    node = None if value is None else value.producer()
    source = input_at(node, 0) if node is not None and node.op_type == "Cast" else value
    return source if source is not None and source.dtype in HIGHEST and stored_array(source) is not None else None


@dataclass
class _Watched:
    """A value of the float graph that is in 16 bits in the other, and what was seen."""

    value: ir.Value
    grid: Rounding
    seen: Seen = field(default_factory=Seen)


def _activations(
    before: ir.Model, after: ir.Model, found: Mapping[str, Halved], batches: Batches, workspace: Workspace
) -> Iterator[TensorError]:
    first = next(iter(batches), None)
    watched = _watched(before, after, found)
    if first is None or not watched:
        return
    shapes = {name: np.shape(array) for name, array in first.inputs.items()}
    for chunk in in_chunks(before, list(watched), shapes):
        with open_session(tapped(before, chunk, workspace), Target(), optimize=False) as session:
            for batch in batches:
                values = {**batch.inputs, **session.run(batch.inputs)}
                for name in chunk:
                    numbers = np.asarray(valid_rows(values[name], batch), np.float32)
                    grid = watched[name].grid
                    watched[name].seen.add(numbers, grid.rounded(numbers), grid)
    for name, each in watched.items():
        readers = tuple(site for node, _ in each.value.uses() if (site := site_of(node)) in found)
        if each.seen.count:
            yield each.seen.told(name, "activation", each.grid.dtype, readers)


def _watched(before: ir.Model, after: ir.Model, found: Mapping[str, Halved]) -> dict[str, _Watched]:
    """Return what nodes of the main graph give in 16 bits, and what is narrowed for those that read it so, by name."""
    floats = {value.name: value for value in before.graph.inputs if not value.is_initializer()}
    floats |= {value.name: value for node in before.graph for value in node.outputs}
    halves: dict[str | None, ir.DataType | None] = {}
    for node in after.graph:
        source = input_at(node, 0)
        if node.op_type == "Cast" and source is not None and node.outputs[0].dtype in HIGHEST:
            halves[source.name] = node.outputs[0].dtype
    for halved in found.values():
        pairs = zip(halved.node.outputs, halved.twin.outputs, strict=False)
        halves |= {old.name: new.dtype for old, new in pairs}
    return {
        name: _Watched(value, Rounding(dtype))
        for name, value in floats.items()
        if name and value.dtype == ir.DataType.FLOAT and (dtype := halves.get(name)) in HIGHEST and dtype is not None
    }


def _weights(found: Mapping[str, Halved]) -> Iterator[TensorError]:
    """Yield how far the weights are from those of the float graph, each once with the nodes that read it."""
    told: dict[ir.Value, TensorError] = {}
    readers: dict[ir.Value, list[str]] = {}
    for site, halved in found.items():
        for old, new in zip(halved.node.inputs, halved.twin.inputs, strict=False):
            stored, expected = _stored(new), stored_array(old)
            if old is None or stored is None or stored.dtype is None or expected is None or expected.size == 1:
                continue
            readers.setdefault(stored, []).append(site)
            actual = stored_array(stored)
            if stored not in told and actual is not None and actual.shape == expected.shape:
                seen = Seen()
                seen.add(np.asarray(expected, np.float32), actual.astype(np.float32), Rounding(stored.dtype))
                told[stored] = seen.told(str(old.name), "weight", stored.dtype, ())
    yield from (replace(each, readers=tuple(readers[value])) for value, each in told.items())
