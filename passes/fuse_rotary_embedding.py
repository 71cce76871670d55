"""Write a rotary position embedding that is spelled out as the one operator that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlc.fusion import Match, Search, Size, constant, dims_of, near_miss, producer, sizes_of
from mlc.graph_pass import Exactness
from passes._attention import AXES, BY_HEAD, size_of, transposed, unsplit, with_own_sources
from passes._near_rotary import NO_HALVES, near_rotary
from passes._rotation import PAIR, Rotation, are_alike, rotation

if TYPE_CHECKING:
    import onnx_ir as ir

HEADS_FIRST, LENGTH_FIRST = 1, 2
"""Where the axis of heads is: before the length, or behind it, before the heads are moved."""

KIND = {False: "halves", True: "neighbours"}
"""What has to be the same of cosines and sines, by how the pairs lie."""


@dataclass(frozen=True)
class FuseRotaryEmbedding(Search):
    """``x * cos + concat(-x2, x1) * sin`` becomes ``RotaryEmbedding(x, cos, sin)`` of opset 23.

    As Su et al. have it (RoFormer, arXiv 2104.09864, section 3.4.2). The pairs x1 and x2 are the halves of the last
    axis, or neighbours along it (``interleaved``), rotated in one sum or each part by itself and put together then, as
    a product of complex numbers is. x is [batch, heads, length, width], or [batch, length, heads, width]; the operator
    reads a cosine and a sine for each pair, [batch, length, width / 2], taken once for every x. Refuses where what is
    exchanged are no such pairs or come back as others, where none of a pair is negated or the other one, where there is
    another factor, where x does not have four axes or an even width that is known, where cos or sin is not the same for
    all heads, where it is not known to be the same for both of a pair, and where a value inside is used elsewhere or is
    an output.
    """

    name: ClassVar[str] = "fuse-rotary-embedding"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    min_opset: ClassVar[int] = 23
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "Concat", "Sub"})

    def look(self, node: ir.Node) -> Match | None:
        found = rotation(node)
        if found is None or not (found.whole or _is_by_head(found)):
            return near_miss(node, near_rotary(node))
        heads_at = LENGTH_FIRST if _unfit(found) else _heads_at(found)
        kept = [found.x, *(_read(found, value, heads_at) for value in (found.cos, found.sin))]
        return Match(with_own_sources(found.nodes, kept), [found.output], {"found": found})

    def check(self, found) -> str | None:
        return _unfit(found) or (_misfit(found, _heads_at(found)) and _misfit(found, HEADS_FIRST))

    def rewrite(self, op, found):
        dims = dims_of(found.x) or []
        heads_at = _heads_at(found)
        caches = [_without_heads(op, found, value, heads_at) for value in (found.cos, found.sin)]
        half = constant(op, np.array([int(dims[-1]) // PAIR], np.int64))
        if found.whole:
            caches = _one_of_each_pair(op, found, caches, half)
        # read instead of the transpose or the split into heads, which an attention may do without
        moved = transposed(found.x, BY_HEAD) if heads_at == HEADS_FIRST else unsplit(found.x)
        if not all(_is_full(found, value, heads_at) for value in (found.cos, found.sin)):
            source, length_at = (found.x, _length_at(heads_at)) if moved is None else (moved, 1)
            shape = op.Concat(size_of(op, source, 0), size_of(op, source, length_at), half, axis=0)
            caches = [op.Expand(cache, shape) for cache in caches]
        side_by_side = int(found.side_by_side)
        if heads_at == HEADS_FIRST:
            return op.RotaryEmbedding(found.x, *caches, interleaved=side_by_side)
        heads, width = (int(size) for size in dims[LENGTH_FIRST:])
        flat = moved
        if flat is None:
            flat = op.Reshape(found.x, constant(op, np.array([0, 0, heads * width], np.int64)))
        made = op.RotaryEmbedding(flat, *caches, interleaved=side_by_side, num_heads=heads)
        return op.Reshape(made, constant(op, np.array([0, 0, heads, width], np.int64)))


def _is_by_head(found: Rotation) -> bool:
    """Whether it is no product of complex numbers of another kind: x has an axis of heads, and angles have axes too."""
    angles = [_angles(found, value) or [] for value in (found.cos, found.sin)]
    return len(dims_of(found.x) or []) == AXES and all(len(own) > 1 for own in angles)


def _unfit(found: Rotation) -> str | None:
    """Return why the operator cannot rotate x, whatever the angles are, or None."""
    dims = dims_of(found.x)
    if dims is None or len(dims) != AXES or not isinstance(dims[-1], int) or dims[-1] % PAIR:
        return "what is rotated does not have four axes, the last of an even size"
    if found.side_by_side is None:
        return NO_HALVES
    return "what is rotated is not float32" if found.x.dtype is None or found.x.dtype.name != "FLOAT" else None


def _heads_at(found: Rotation) -> int:
    """Return where the axis of heads is: in front of the length, unless cosines and sines fit the other way alone."""
    return HEADS_FIRST if _misfit(found, HEADS_FIRST) is None else LENGTH_FIRST


def _length_at(heads_at: int) -> int:
    """Return where the axis of the length is: on the other one of the two in the middle."""
    return LENGTH_FIRST if heads_at == HEADS_FIRST else HEADS_FIRST


def _misfit(found: Rotation, heads_at: int) -> str | None:
    """Return why the operator cannot read cosines or sines where the heads are on that axis, or None."""
    dims = dims_of(found.x) or []
    if heads_at == LENGTH_FIRST and not isinstance(dims[heads_at], int):
        return "the number of heads is not known"
    length_at = _length_at(heads_at)
    for role, value in (("cosine", found.cos), ("sine", found.sin)):
        own = _angles(found, value)
        if own is None or not 1 < len(own) <= AXES:
            return f"the axes of the {role} are not known"
        axes: list[Size] = [*[1] * (AXES - len(own)), *own]
        if axes[heads_at] != 1:
            return f"the {role} is not the same for all heads"
        width = dims[-1] if found.whole else int(dims[-1]) // PAIR
        if axes[0] not in (1, dims[0]) or axes[length_at] not in (1, dims[length_at]) or axes[-1] != width:
            return f"the {role} is not known to fit"
        if found.whole and not are_alike(value, side_by_side=bool(found.side_by_side)):
            return f"the two {KIND[bool(found.side_by_side)]} of the {role} are not known to be the same"
    return None


def _angles(found: Rotation, value: ir.Value) -> list[Size] | None:
    """Return the sizes of cosines or sines, without a last axis of one element that they may have."""
    own = dims_of(value)
    if not found.columns or own is None:
        return own
    return own[:-1] if own[-1] == 1 else None


def _is_full(found: Rotation, value: ir.Value, heads_at: int) -> bool:
    """Whether cosines or sines are there for every sample and position."""
    own, dims, length_at = _angles(found, value), dims_of(found.x), _length_at(heads_at)
    if own is None or dims is None or len(own) != AXES:
        return False
    return [own[0], own[length_at]] == [dims[0], dims[length_at]]


def _read(found: Rotation, value: ir.Value, heads_at: int) -> ir.Value:
    """Return what cosines or sines are read from: what they were before they got an axis of heads, if that is known."""
    node = producer(value, "Unsqueeze") if heads_at == HEADS_FIRST and not found.columns else None
    source = node.inputs[0] if node is not None and sizes_of(node.inputs[1]) in ([1], [1 - AXES]) else None
    return value if source is None else source


def _without_heads(op: Any, found: Rotation, value: ir.Value, heads_at: int) -> ir.Value:
    """Return cosines or sines without their axis of heads, if they have one, made in a rewrite."""
    read = _read(found, value, heads_at)
    if read is not value:
        return read
    made: ir.Value = op.Squeeze(value, constant(op, np.array([-1], np.int64))) if found.columns else value
    axis = len(_angles(found, value) or []) - AXES + heads_at
    if axis >= 1:
        made = op.Squeeze(made, constant(op, np.array([axis], np.int64)))
    return made


def _one_of_each_pair(op: Any, found: Rotation, caches: list[ir.Value], half: ir.Value) -> list[ir.Value]:
    """Return cosines and sines of each pair alone, of which both numbers have the same, made in a rewrite."""
    first, last = (constant(op, np.array([place], np.int64)) for place in (0, -1))
    if not found.side_by_side:
        return [op.Slice(cache, first, half, last) for cache in caches]
    end, step = (constant(op, np.array([place], np.int64)) for place in (np.iinfo(np.int64).max, PAIR))
    return [op.Slice(cache, first, end, last, step) for cache in caches]
