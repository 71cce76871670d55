"""Write a rotary position embedding that is spelled out as the one operator that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlc.formats import number
from mlc.fusion import (
    Match,
    Search,
    Size,
    array_of,
    constant,
    dims_of,
    is_constant,
    is_standard,
    near_miss,
    producer,
    scalar_of,
    sizes_of,
)
from mlc.graph_pass import Exactness
from passes._attention import AXES, BY_HEAD, size_of, transposed, with_own_sources
from passes._near_rotary import NO_HALVES, near_rotary

if TYPE_CHECKING:
    import onnx_ir as ir

ELEMENTWISE = frozenset({"Cast", "Cos", "Identity", "Neg", "Sin"})
"""What gives an element for each of its only input."""

AXES_AT = {"Slice": 3, "Unsqueeze": 1}
"""What leaves all axes but some alone, and the input that names these."""


@dataclass(frozen=True)
class FuseRotaryEmbedding(Search):
    """``x * cos + concat(-x2, x1) * sin`` becomes ``RotaryEmbedding(x, cos, sin)`` of opset 23, x1 and x2 halves of x.

    As Su et al. have it (RoFormer, arXiv 2104.09864, section 3.4.2), with the pairs that lie half a head apart. x is
    [batch, heads, length, width]; the operator reads one half of cos and of sin, [batch, length, width / 2], taken once
    for every x. Refuses where what is negated and exchanged are not the two halves of the last axis (pairs side by
    side, a part of the head), where no half is negated or the other one, where the halves are rotated apart and joined
    then, where there is another factor, where x does not have four axes or an even width that is known, where cos or
    sin is not the same for all heads, where its two halves are not known to be the same, and where a value inside is
    used elsewhere or is an output.
    """

    name: ClassVar[str] = "fuse-rotary-embedding"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    min_opset: ClassVar[int] = 23
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "Concat", "Sub"})

    def look(self, node: ir.Node) -> Match | None:
        found = _spelled(node) if node.op_type == "Add" else None
        return found or near_miss(node, near_rotary(node))

    def check(self, x, cos, sin, halves) -> str | None:
        dims = dims_of(x)
        if dims is None or len(dims) != AXES or not isinstance(dims[-1], int) or dims[-1] % 2:
            return "what is rotated does not have four axes, the last of an even size"
        if not halves:
            return NO_HALVES
        if x.dtype is None or x.dtype.name != "FLOAT":
            return "what is rotated is not float32"
        reasons = (_misfit(role, value, dims) for role, value in (("cosine", cos), ("sine", sin)))
        return next(filter(None, reasons), None)

    def rewrite(self, op, x, cos, sin, halves):
        dims = dims_of(x) or []
        first, width, last = (constant(op, np.array([place], np.int64)) for place in (0, int(dims[-1]) // 2, -1))
        caches = [op.Slice(_without_heads(op, value), first, width, last) for value in (cos, sin)]
        if not all(_whole(value, dims) for value in (cos, sin)):
            split = transposed(x, BY_HEAD)  # read instead of its transpose, which an attention may do without
            source, length = (x, 2) if split is None else (split, 1)
            shape = op.Concat(size_of(op, source, 0), size_of(op, source, length), width, axis=0)
            caches = [op.Expand(cache, shape) for cache in caches]
        return op.RotaryEmbedding(x, *caches, interleaved=0)


def _spelled(node: ir.Node) -> Match | None:
    """Return the match of a sum that is a rotation, or None."""
    for plain, turned in (node.inputs, node.inputs[::-1]):
        straight, crossed = producer(plain, "Mul"), producer(turned, "Mul")
        for rotated, sin in _ways(crossed):
            found = _rotated(rotated)
            for x, cos in _ways(straight):
                if found is not None and straight is not None and crossed is not None and x is found[0]:
                    bound = {"x": x, "cos": cos, "sin": sin, "halves": found[1]}
                    kept = [x, *(_source(each) or each for each in (cos, sin) if each is not None)]
                    nodes = with_own_sources([*found[2], straight, crossed, node], kept)
                    return Match(nodes, node.outputs, bound)
    return None


def _ways(product: ir.Node | None) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """Return the operands of a product both ways round."""
    return [] if product is None else [(product.inputs[0], product.inputs[1]), (product.inputs[1], product.inputs[0])]


def _rotated(value: ir.Value | None) -> tuple[ir.Value, bool, list[ir.Node]] | None:
    """Return x of ``concat(-x2, x1)``, whether x1 and x2 are its halves, and the nodes."""
    concat = producer(value, "Concat")
    if concat is None or len(concat.inputs) != 2:
        return None
    negative, first = producer(concat.inputs[0], "Neg"), concat.inputs[1]
    second = negative.inputs[0] if negative is not None else None
    if negative is None or first is None or second is None:
        return None
    nodes = [node for node in (first.producer(), second.producer()) if node is not None and is_standard(node)]
    if len(nodes) != 2 or any(node.op_type not in ("Slice", "Split") for node in nodes):
        return None
    x = nodes[0].inputs[0]
    if x is None or x is not nodes[1].inputs[0]:
        return None
    dims = dims_of(x)
    if dims is None or not isinstance(dims[-1], int):
        return x, False, list(dict.fromkeys([*nodes, negative, concat]))
    places, width = range(dims[-1]), dims[-1] // 2
    halves = [_taken(value, places, len(dims) - 1) for value in (first, second)] == [places[:width], places[width:]]
    along = concat.attributes["axis"].as_int() in (-1, len(dims) - 1)
    return x, halves and along, list(dict.fromkeys([*nodes, negative, concat]))


def _taken(value: ir.Value, places: range, last: int) -> range | None:
    """Return which places of the last axis a Slice or one output of a Split takes, or None."""
    node, own = value.producer(), dims_of(value)
    if node is None or own is None:
        return None
    if node.op_type == "Split":
        axis = number(node, "axis", 0)
        size = own[-1] if axis in (-1, last) and len(node.outputs) == 2 else None
        if not isinstance(size, int):
            return None
        return places[:size] if value.index() == 0 else places[len(places) - size :]
    given = [sizes_of(each) if is_constant(each) else None for each in node.inputs[1:]]
    if len(given) not in (3, 4) or given[2] not in ([-1], [last]) or given[3:] not in ([], [[1]]):
        return None
    start, end = (each[0] if each else None for each in given[:2])
    return places[start:end] if isinstance(start, int) and isinstance(end, int) else None


def _misfit(role: str, value: ir.Value, dims: list[Size]) -> str | None:
    """Return why the operator cannot read cosines or sines for what has these sizes, or None."""
    own = dims_of(value)
    if own is None or not 1 < len(own) <= AXES:
        return f"the axes of the {role} are not known"
    batch, heads, length, width = [1] * (AXES - len(own)) + own
    if heads != 1:
        return f"the {role} is not the same for all heads"
    if batch not in (1, dims[0]) or length not in (1, dims[2]) or width != dims[3]:
        return f"the {role} is not known to fit"
    return None if _alike(value) else f"the two halves of the {role} are not known to be the same"


def _alike(value: ir.Value | None) -> bool:
    """Whether the two halves of the last axis of a value are the same."""
    if value is not None and is_constant(value):
        first, second = np.array_split(np.atleast_1d(array_of(value)), 2, axis=-1)
        return bool(np.array_equal(first, second))
    node, dims = value.producer() if value is not None else None, dims_of(value)
    if node is None or dims is None or not is_standard(node):
        return False
    if node.op_type in ("Concat", "Tile"):
        return _twice(node, len(dims) - 1)
    if node.op_type in ("Mul", "Div"):
        return all(scalar_of(side) is not None or _alike(side) for side in node.inputs)
    if node.op_type in AXES_AT:
        axes = sizes_of(next(iter(node.inputs[AXES_AT[node.op_type] :]), None))
        return axes is not None and not {-1, len(dims) - 1} & set(axes) and _alike(node.inputs[0])
    return (node.op_type in ELEMENTWISE or _by_position(node)) and _alike(node.inputs[0])


def _twice(node: ir.Node, last: int) -> bool:
    """Whether a Concat or Tile puts two equal halves together along the last axis."""
    if node.op_type == "Concat":
        along = node.attributes["axis"].as_int() in (-1, last)
        return along and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    times = (sizes_of(node.inputs[1]) or [1])[-1]
    return isinstance(times, int) and times > 0 and times % 2 == 0


def _by_position(node: ir.Node) -> bool:
    """Whether a node looks rows up in a constant table."""
    table, first = node.inputs[0], number(node, "axis", 0) == 0 and number(node, "batch_dims", 0) == 0
    if table is None or not is_constant(table) or not first or array_of(table).ndim < 2:
        return False
    single = node.op_type == "GatherND" and (dims_of(node.inputs[1]) or [0])[-1] == 1
    return single or node.op_type == "Gather"


def _whole(value: ir.Value, dims: list[Size]) -> bool:
    """Whether cosines or sines are there for every sample and position of what has these sizes."""
    own = dims_of(value)
    return own is not None and len(own) == AXES and [own[0], own[2]] == [dims[0], dims[2]]


def _source(value: ir.Value) -> ir.Value | None:
    """Return cosines or sines [batch, length, width] that only got an axis of heads, or None."""
    node = producer(value, "Unsqueeze")
    return node.inputs[0] if node is not None and sizes_of(node.inputs[1]) in ([1], [1 - AXES]) else None


def _without_heads(op: Any, value: ir.Value) -> ir.Value:
    """Return cosines or sines without their axis of heads, if they have one, made in a rewrite."""
    own = dims_of(value)
    source = _source(value)
    if source is not None or own is None or len(own) < AXES:
        return source or value
    squeezed: ir.Value = op.Squeeze(value, constant(op, np.array([1], np.int64)))
    return squeezed
