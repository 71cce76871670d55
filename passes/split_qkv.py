"""Take packed queries, keys and values apart before their axes are moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlc.formats import number
from mlc.fusion import Match, Search, array_of, constant, dims_of, is_constant, is_standard, near_miss, producer
from mlc.graph_pass import Exactness
from passes._linear import Linear, linear_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Array

PACKED_AXES = 5
PARTS = 2
"""The axis of the parts in [batch, length, parts, heads, size]."""

MANY = 512
"""From so many rows on a product for each part is faster than one and its Split, up to 1.5 times at 9,216 rows of 64.

Neither is at 200 rows; with fewer, as in a decode step, it is up to a quarter slower. Measured.
"""

BEHIND = "the parts are no axis right behind the length, but one behind the heads or their elements"

TOGETHER = "several parts are taken at once, and each of them from that"


@dataclass(frozen=True)
class SplitQkv(Search):
    """``Transpose(Reshape(x, [b, s, 3, h, d]))[i]`` becomes ``Transpose(Reshape(Split(x)[i], [b, s, h, d]))``.

    As vision transformers pack the projections of queries, keys and values, or of keys and values; each part is copied
    once and not twice. Where x is a linear layer of 512 rows and more, and nothing else reads it, each part gets a
    linear layer of its own, and nothing is split. Refuses where the value of five axes is used elsewhere or is an
    output of the graph, where the parts are an axis behind the heads or several are taken at once, unless every part
    is read, x is [batch, length, features], the number of parts and heads and their size are known, and the reshape is
    known to keep batch and length.
    """

    name: ClassVar[str] = "split-qkv"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    ends: ClassVar[frozenset[str]] = frozenset({"Transpose"})

    def look(self, node: ir.Node) -> Match | None:
        reshape, perm = producer(node.inputs[0], "Reshape"), node.attributes.get("perm")
        order = [] if perm is None else list(perm.as_ints())
        if reshape is None or len(order) != PACKED_AXES or order[0] < PARTS:
            return None
        parts = sorted(_parts(node.outputs[0]), key=lambda part: part.index)
        wrong = BEHIND if order[0] > PARTS else TOGETHER if _taken_together(node.outputs[0]) else ""
        if not parts or len(parts) + (wrong == TOGETHER) < 2:
            return None
        if wrong:
            return near_miss(parts[0].nodes[-1], wrong)
        nodes = dict.fromkeys(node for part in parts for node in part.nodes)
        linear = _projection(reshape)
        bound = {"x": reshape.inputs[0], "linear": linear, "packed": node.inputs[0], "order": order, "parts": parts}
        before = () if linear is None else linear.nodes
        return Match([*before, reshape, node, *nodes], [part.value for part in parts], bound)

    def check(self, x, linear, packed, order, parts) -> str | None:
        before, after, sizes = dims_of(x), dims_of(packed), _sizes(packed)
        if before is None or len(before) != PACKED_AXES - 2:
            return "what is packed is not [batch, length, features]"
        if after is None or len(sizes) != PACKED_AXES - PARTS:
            return "the number of parts or heads or their size is not known"
        if before[:2] != after[:2]:
            return "batch and length are not known to stay"
        return None if {part.index for part in parts} == set(range(sizes[0])) else "not every part is read"

    def rewrite(self, op, x, linear, packed, order, parts):
        count, heads, size = _sizes(packed)
        if linear is None:
            split = op.Split(x, constant(op, np.full(count, heads * size, np.int64)), axis=-1, _outputs=count)
        else:
            split = _columns_apart(op, linear, count)
        shape = constant(op, np.array([0, 0, heads, size], np.int64))
        moved = [axis - (axis > PARTS) for axis in order[1:]]
        apart = [op.Reshape(split[part.index], shape) for part in parts]
        return apart if moved == sorted(moved) else [op.Transpose(part, perm=moved) for part in apart]


@dataclass(frozen=True)
class Part:
    """One element of the first axis: which, as which value, taken by which nodes."""

    index: int
    value: ir.Value
    nodes: tuple[ir.Node, ...]


def _projection(reshape: ir.Node) -> Linear | None:
    """Return the linear layer of many rows that gives what is packed, if nothing else reads any of it, or None."""
    linear, dims = linear_of(reshape.inputs[0]), dims_of(reshape.inputs[0])
    if linear is None or dims is None or linear.reason_to_stay() is not None:
        return None
    inside = [linear.weight, *(node.outputs[0] for node in linear.nodes)]
    alone = all(len(value.uses()) == 1 and not value.is_graph_output() for value in inside)
    beside = all(node.graph is reshape.graph for node in linear.nodes)
    rows = math.prod(size for size in dims[:-1] if isinstance(size, int))
    return linear if alone and beside and rows >= MANY else None


def _columns_apart(op: Any, linear: Linear, count: int) -> list[ir.Value]:
    """Write a linear layer as one for each of so many parts of its columns."""
    matrices = np.split(linear.matrix(), count, axis=1)
    offsets = [None] * count if linear.bias is None else np.split(linear.offset(), count)
    return [linear.written(op, matrix, offset) for matrix, offset in zip(matrices, offsets, strict=True)]


def _sizes(packed: ir.Value) -> list[int]:
    """Return how many parts there are, and heads, and elements of one, as far as that is known."""
    return [size for size in (dims_of(packed) or [])[PARTS:] if isinstance(size, int)]


def _parts(packed: ir.Value) -> Iterator[Part]:
    """Yield the elements of the first axis that nodes take: a Gather, or a Slice or Split and its Squeeze."""
    for node in dict.fromkeys(use.node for use in packed.uses()):
        if not is_standard(node) or number(node, "axis", 0) != 0:
            continue
        if node.op_type == "Gather":
            index = _integers(node.inputs[1])
            count = next(iter(dims_of(packed) or []), None)
            if index is not None and index.ndim == 0 and (index >= 0 or isinstance(count, int)):
                place = int(index) + (count if index < 0 and isinstance(count, int) else 0)
                yield Part(place, node.outputs[0], (node,))
        elif node.op_type == "Slice":
            start, squeeze = _start(node), _squeeze(node.outputs[0])
            if start is not None and squeeze is not None:
                yield Part(start, squeeze.outputs[0], (node, squeeze))
        elif node.op_type == "Split":
            squeezes = [squeeze for squeeze in map(_squeeze, node.outputs) if squeeze is not None]
            if len(squeezes) == len(node.outputs):
                yield from (Part(at, squeeze.outputs[0], (node, squeeze)) for at, squeeze in enumerate(squeezes))


def _taken_together(packed: ir.Value) -> bool:
    """Whether a Slice of the first axis leaves it, and parts are taken of that."""
    slices = [use.node for use in packed.uses() if producer(use.node.outputs[0], "Slice") is not None]
    return any(len(list(_parts(node.outputs[0]))) > 1 for node in slices)


def _start(node: ir.Node) -> int | None:
    """Return where a Slice of one element of the first axis begins, or None."""
    given = [_integers(value) for value in node.inputs[1:]]
    numbers = [int(array.reshape(())) for array in given if array is not None and array.size == 1]
    if len(numbers) < len(given):
        return None
    start, end, axis, step = (*numbers, *(0, 1)[len(numbers) - 2 :])
    return start if start >= 0 and end == start + 1 and axis == 0 and step == 1 else None


def _squeeze(value: ir.Value) -> ir.Node | None:
    """Return the node that takes the first axis away, where it alone reads the value."""
    readers = [use.node for use in value.uses()]
    node = producer(readers[0].outputs[0], "Squeeze") if len(readers) == 1 else None
    axes = _integers(node.inputs[1]) if node is not None and len(node.inputs) > 1 else None
    return node if axes is not None and axes.tolist() == [0] else None


def _integers(value: ir.Value | None) -> Array | None:
    return array_of(value) if value is not None and is_constant(value) else None
