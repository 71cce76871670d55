"""What the passes over attention share: queries, keys and values by head, and the operator with three or four axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from mlc.fusion import Match, Size, constant, dims_of, producer
from passes._kernels import DOMAIN

BY_HEAD = [0, 2, 1, 3]
"""Exchanges the axes of length and heads."""

AXES = 4


@dataclass(frozen=True)
class Heads:
    """Queries, keys or values [batch, heads, length, width].

    ``split`` [batch, length, heads, width] is what they are the transpose of, ``rotary`` a RotaryEmbedding behind that
    transpose; each None where there is none. ``value`` is None where only ``split`` is there.
    """

    value: ir.Value | None
    split: ir.Value | None = None
    rotary: ir.Node | None = None

    @property
    def dims(self) -> list[Size] | None:
        """The sizes of batch, heads, length and width, or None where they are not four axes."""
        dims = dims_of(self.value if self.value is not None else self.split)
        if dims is None or len(dims) != AXES:
            return None
        return dims if self.value is not None else [dims[axis] for axis in BY_HEAD]

    def read(self, *, three_axes: bool) -> ir.Value | None:
        """Return the value that an attention with three or four axes is made from."""
        if three_axes and self.split is not None:
            return unsplit(self.split) or self.split
        return self.value if self.value is not None else self.split

    def length(self, op: Any, *, three_axes: bool) -> ir.Value:
        """Return the length, int64[1], made in a rewrite."""
        value = self.read(three_axes=three_axes)
        assert value is not None
        return size_of(op, value, 2 if value is self.value else 1)

    def with_four_axes(self, op: Any) -> ir.Value:
        """Return them as [batch, heads, length, width], made in a rewrite."""
        made: ir.Value = self.value if self.value is not None else op.Transpose(self.split, perm=BY_HEAD)
        return made

    def with_three_axes(self, op: Any) -> ir.Value:
        """Return them as [batch, length, heads * width], made in a rewrite; only where ``split`` is there."""
        made: Any = self.read(three_axes=True)
        if made is self.split:
            made = op.Reshape(made, constant(op, np.array([0, 0, -1], np.int64)))
        if self.rotary is not None and self.dims is not None:
            kept = {name: attribute.value for name, attribute in self.rotary.attributes.items()}
            made = op.RotaryEmbedding(made, *self.rotary.inputs[1:], **{**kept, "num_heads": self.dims[1]})
        assert isinstance(made, ir.Value)
        return made


def heads_of(value: ir.Value) -> Heads:
    """Return what a value by head is made of; heads that are repeated are no split, since fewer can be read."""
    rotary = producer(value, "RotaryEmbedding") if _alone(value) else None
    split = transposed(value if rotary is None else rotary.inputs[0], BY_HEAD)
    return Heads(value) if split is None or expanded(split) is not None else Heads(value, split, rotary)


def expanded(value: ir.Value | None) -> tuple[ir.Node, ir.Node] | None:
    """Return the Unsqueeze and the Expand that repeat what a value is, joined to one axis by a Reshape, or None."""
    reshape = producer(value, "Reshape")
    expand = producer(reshape.inputs[0], "Expand") if reshape is not None else None
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    return None if expand is None or unsqueeze is None else (unsqueeze, expand)


def size_of(op: Any, value: ir.Value, axis: int) -> ir.Value:
    """Return the size of an axis, int64[1], made in a rewrite.

    It is read from an input of the graph that has the same size, where there is one: what several sites make of it is
    the same then, and computed once.
    """
    dims = dims_of(value)
    assert dims is not None
    if isinstance(dims[axis], int):
        return constant(op, np.array([dims[axis]], np.int64))
    source, place = value, axis
    for given in value.graph.inputs if isinstance(value.graph, ir.Graph) else ():
        places = dims_of(given) or []
        if dims[axis] in places:
            source, place = given, places.index(dims[axis])
            break
    made: ir.Value = op.Shape(source, start=place, end=place + 1)
    return made


def transposed(value: ir.Value | None, permutation: list[int]) -> ir.Value | None:
    """Return what a value is the transpose of by these axes, or None."""
    node = producer(value, "Transpose")
    if node is None or "perm" not in node.attributes or list(node.attributes["perm"].as_ints()) != permutation:
        return None
    return node.inputs[0]


def unsplit(split: ir.Value) -> ir.Value | None:
    """Return the value [batch, length, heads * width] that was split into heads, or None."""
    node = producer(split, "Reshape")
    source = node.inputs[0] if node is not None else None
    before, after = dims_of(source), dims_of(split)
    if before is None or after is None or len(before) != AXES - 1:
        return None
    return source if before[:2] == after[:2] else None


@dataclass(frozen=True)
class Tail:
    """Where heads come together again behind an attention: [batch, length, heads, width] or, ``joined``, three axes."""

    nodes: list[ir.Node]
    output: ir.Value
    joined: bool


def tail_of(output: ir.Value, sides: Iterable[Heads]) -> Tail | None:
    """Return what follows an attention whose inputs may have three axes, or None where they may not."""
    if not all(side.split is not None and side.dims is not None and isinstance(side.dims[1], int) for side in sides):
        return None
    transpose = only_use(output, "Transpose")
    if transpose is None or transposed(transpose.outputs[0], BY_HEAD) is None:
        return None
    split = transpose.outputs[0]
    reshape = only_use(split, "Reshape")
    joined = reshape.outputs[0] if reshape is not None else None
    before, after = dims_of(split), dims_of(joined)
    if reshape is None or joined is None or before is None or after is None:
        return Tail([transpose], split, joined=False)
    whole = len(after) == AXES - 1 and before[:2] == after[:2]
    return Tail([transpose, reshape], joined, joined=True) if whole else Tail([transpose], split, joined=False)


def only_use(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the one node that reads a value, if it is of this type and the value no graph output."""
    node = next(iter(value.uses())).node if _alone(value) else None
    return node if node is not None and producer(node.outputs[0], op_type) is node else None


def _alone(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def with_own_sources(nodes: Iterable[ir.Node], kept: Iterable[ir.Value | None]) -> list[ir.Node]:
    """Return nodes and all before them that nothing else needs, up to the values that are ``kept``."""
    found = dict.fromkeys(nodes)
    needed = {value.producer() for value in kept if value is not None}  # another of its outputs may be read inside
    waiting = list(found)
    while waiting:
        for value in waiting.pop().inputs:
            node = value.producer() if value is not None else None
            if node is None or node in needed or node in found or node.graph is not next(iter(found)).graph:
                continue
            if all(
                not each.is_graph_output() and all(use.node in found for use in each.uses()) for each in node.outputs
            ):
                found[node] = None
                waiting.append(node)
    return list(found)


@dataclass(frozen=True)
class Attention:
    """``softmax(scale * q @ k.T + mask) @ v``, with the operator's attributes but its numbers of heads."""

    q: Heads
    k: Heads
    v: Heads
    mask: ir.Value | None
    attributes: Mapping[str, Any]

    def write(self, op: Any, mask: ir.Value | None, tail: Tail | None) -> ir.Value:
        """Write Attention (ONNX, Operators, opset 23): with three axes where there is a ``tail``, else with four."""
        sides, masks = (self.q, self.k, self.v), [] if mask is None else [mask]
        made: ir.Value
        if tail is None:
            made = op.Attention(*(side.with_four_axes(op) for side in sides), *masks, **self.attributes)
            return made
        q_heads, kv_heads = (side.dims[1] if side.dims is not None else None for side in (self.q, self.k))
        numbers = {"q_num_heads": q_heads, "kv_num_heads": kv_heads}
        return self._with_three_axes(op, op.Attention, tail, masks, **numbers)

    def write_as_kernel(self, op: Any, tail: Tail) -> ir.Value:
        """Write com.microsoft.MultiHeadAttention, whose inputs have three axes."""
        heads = self.q.dims[1] if self.q.dims is not None else None
        return self._with_three_axes(op, op.MultiHeadAttention, tail, num_heads=heads, _domain=DOMAIN)

    def _with_three_axes(
        self, op: Any, write: Callable[..., Any], tail: Tail, masks: Iterable[ir.Value] = (), **more: Any
    ) -> ir.Value:
        """Write an operator on three axes; split its heads again where they do not come together behind it."""
        made: ir.Value = write(
            *(side.with_three_axes(op) for side in (self.q, self.k, self.v)), *masks, **self.attributes, **more
        )
        if not tail.joined:
            heads = self.q.dims[1] if self.q.dims is not None else None
            made = op.Reshape(made, constant(op, np.array([0, 0, heads, -1], np.int64)))
        return made


def attention_of(node: ir.Node) -> Attention | None:
    """Return an Attention with four axes, or None where it has three, a past, or more than one output."""
    inputs = [*node.inputs, None][: max(4, len(node.inputs))]
    (q, k, v, mask), past = inputs[:4], inputs[4:]
    others = any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
    if q is None or k is None or v is None or any(past) or others or "q_num_heads" in node.attributes:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return Attention(heads_of(q), heads_of(k), heads_of(v), mask, attributes)


def match_of(
    attention: Attention,
    nodes: Iterable[ir.Node],
    output: ir.Value,
    *,
    bound: Mapping[str, Any],
    kept: Iterable[ir.Value | None] = (),
) -> Match:
    """Return the match that replaces an attention, with what makes its inputs and joins its heads.

    Its tail is None where inputs have to have four axes; ``kept`` are other values that the replacement reads.
    """
    sides = (attention.q, attention.k, attention.v)
    tail = tail_of(output, sides)
    read = [side.read(three_axes=tail is not None) for side in sides]
    caches = [value for side in sides if side.rotary is not None for value in side.rotary.inputs[1:]]
    behind = [] if tail is None else tail.nodes
    inside = with_own_sources([*nodes, *behind], [*read, *caches, attention.mask, *kept])
    bindings = {**bound, "attention": attention, "tail": tail}
    return Match(inside, [output if tail is None else tail.output], bindings)
