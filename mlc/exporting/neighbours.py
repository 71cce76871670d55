"""The nearest neighbours that ``interpolate`` takes to go to other sizes, where Resize takes others at any legal size.

Both multiply places by a ratio in float32: torch by the length before over the length after, Resize by the inverse of
the length after over the length before. Of multiples, as beside most skips, they take the same; where 14 become 32 they
do not. (ATen/native/UpSample.h: nearest_neighbor_compute_source_index; ONNX, Resize.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mlc.dims import largest, named
from mlc.exporting.guards import over_sizes
from mlc.exporting.inserting import before, calls_of, replace, size_of
from mlc.types import Dim, InputSpec

aten: Any = torch.ops.aten

NEAREST = frozenset({aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec})

LEAD = 2
"""Axes before those that are resized: [batch, channels, ...]."""

MOST = 1_000_000
"""Legal sizes that are looked at; where there are more, torch's own neighbours are written, which are always right."""


def own_neighbours(program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> None:
    """Gather along axes that Resize may resize otherwise than torch at any legal size."""
    declared = _declared(program, inputs)
    for node in [node for node in calls_of(program, NEAREST) if node.args[1] is not None]:
        x: Any = node.args[0]
        shape, sizes = x.meta["val"].shape, node.meta["val"].shape
        axes = range(LEAD, len(sizes))
        own = [axis for axis in axes if not _resizes_alike(shape[axis], sizes[axis], declared, named(inputs))]
        if not own:
            continue
        asked: Any = node.args[1]
        wanted = dict(zip(axes, asked, strict=True))
        resized = x
        if len(own) < len(axes):
            rest = [size_of(node, x, axis) if axis in own else wanted[axis] for axis in axes]
            resized = before(node, node.target, x, rest, None)
        for axis in own:
            resized = _gathered(node, resized, axis, wanted[axis])
        replace(node, resized)


def _gathered(node: torch.fx.Node, x: torch.fx.Node, axis: int, wanted: Any) -> torch.fx.Node:
    """Return what is resized along one axis to so many, by torch's own arithmetic."""
    length = before(node, aten.scalar_tensor.default, size_of(node, x, axis), dtype=torch.float32)
    count = before(node, aten.scalar_tensor.default, wanted, dtype=torch.float32)
    step = before(node, aten.div.Tensor, length, count)
    places = before(node, aten.arange.default, wanted, dtype=torch.float32)
    exact = before(node, aten.mul.Tensor, places, step)
    last = before(node, aten.sub.Tensor, length, 1.0)
    found = before(node, aten.minimum.default, before(node, aten.floor.default, exact), last)
    index = before(node, aten._to_copy.default, found, dtype=torch.int64)  # noqa: SLF001
    return before(node, aten.index_select.default, x, axis, index)


def _declared(program: torch.export.ExportedProgram, inputs: Sequence[InputSpec]) -> dict[str, Dim]:
    """Return what is declared of each symbol that stands for an axis of an input."""
    taken = {str(name) for name in program.graph_signature.user_inputs}
    values = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder") if node.name in taken]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return {
        str(size): dim
        for tensor, spec in zip(tensors, inputs, strict=True)
        for size, dim in zip(tensor.shape, spec.dims, strict=True)
        if not isinstance(size, int)
    }


def _resizes_alike(length: Any, wanted: Any, declared: Mapping[str, Dim], roots: Mapping[str, Dim]) -> bool:
    """Whether Resize takes the neighbours that torch takes at all legal sizes, as far as these can be told."""
    pairs = _pairs(length, wanted, declared, roots)
    return pairs is not None and all(_same_neighbours(*pair) for pair in pairs)


def _pairs(
    length: Any, wanted: Any, declared: Mapping[str, Dim], roots: Mapping[str, Dim]
) -> set[tuple[int, int]] | None:
    """Return the lengths before and after at all legal sizes, or None where they cannot be told."""
    if isinstance(length, int) and isinstance(wanted, int):
        return {(length, wanted)}
    names = {str(symbol) for size in (length, wanted) for symbol in _symbols(size)}
    if not names <= set(declared):
        return None
    symbols = {name: declared[name] for name in names}
    known = {name for dim in symbols.values() for name in dim.terms or (dim.name,)}
    own = {name: dim for name, dim in roots.items() if name in known}
    if math.prod((largest(dim) - dim.low) // dim.step + 1 for dim in own.values()) > MOST:
        return None
    try:
        found = over_sizes([str(length), str(wanted)], symbols, own)
        return {pair for lengths, counts in found for pair in zip(lengths.tolist(), counts.tolist(), strict=True)}
    except (SyntaxError, NameError, TypeError, ValueError, ArithmeticError):
        return None


def _symbols(size: Any) -> set[Any]:
    return set() if isinstance(size, int) else set(size.node.expr.free_symbols)


def _same_neighbours(length: int, wanted: int) -> bool:
    places, last = np.arange(wanted, dtype=np.float32), length - 1
    theirs = np.floor(places / (np.float32(wanted) / np.float32(length)))
    ours = np.floor(places * (np.float32(length) / np.float32(wanted)))
    return bool((np.minimum(ours, last) == np.minimum(theirs, last)).all())
