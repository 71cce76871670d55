"""Split a tensor where a sequence of its parts is made and they are taken out of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mlc.formats import input_at, number
from mlc.fusion import Match, Search, array_of, constant, dims_of, is_constant, is_standard, near_miss
from mlc.graph_pass import Exactness

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class SequenceToSplit(Search):
    """``SequenceAt(SplitToSequence(x, n), i)`` becomes ``Split(x)[i]``, or a Slice where not every part is taken.

    As torch's exporter writes ``chunk`` and ``split`` where it does not optimize: sequences are copied part by part,
    many providers have no kernel for them, and no other pass looks through them. Refuses a sequence that is read in
    another way or inside of a branch, places and sizes that are not constant, a place that there is not, an axis of
    unknown size that is split into parts of one size, and keepdims beside sizes.
    """

    name: ClassVar[str] = "sequence-to-split"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    min_opset: ClassVar[int] = 13
    ends: ClassVar[frozenset[str]] = frozenset({"SplitToSequence"})

    def look(self, node: ir.Node) -> Match | None:
        taken = [use.node for use in node.outputs[0].uses()]
        if not taken:
            return None
        if not all(each.op_type == "SequenceAt" and is_standard(each) for each in taken):
            return near_miss(node, "the sequence is read by others than SequenceAt")
        if not all(each.graph is node.graph for each in taken):
            return near_miss(node, "a part is taken inside of a branch or loop")
        bound = {"node": node, "sizes": _sizes(node), "places": [_place(each) for each in taken]}
        return Match([node, *taken], [each.outputs[0] for each in taken], bound)

    def check(self, node, sizes, places) -> str | None:
        given = input_at(node, 1)
        if given is not None and not is_constant(given):
            return "the sizes of the parts are not constant"
        if given is not None and _drops_axis(node):
            return "keepdims beside sizes, which ONNX ignores, takes the axis away in onnxruntime"
        if sizes is None:
            return "the size of the axis that is split is not known"
        if None in places:
            return "the place of a part is not constant"
        there = all(-len(sizes) <= place < len(sizes) for place in places)
        return None if there else "a part is taken that is not there"

    def rewrite(self, op, node, sizes, places):
        x, axis = node.inputs[0], int(number(node, "axis", 0))
        taken = [range(len(sizes))[place] for place in places]
        if sorted(taken) == list(range(len(sizes))):
            split = op.Split(x, _integers(op, *sizes), axis=axis, _outputs=len(sizes))
            parts = [split] if len(sizes) == 1 else [split[place] for place in taken]
        else:  # each output of a Split has to be there
            ends = [*accumulate(sizes, initial=0)]
            along = _integers(op, axis)
            parts = [op.Slice(x, _integers(op, ends[at]), _integers(op, ends[at + 1]), along) for at in taken]
        return [op.Squeeze(part, _integers(op, axis)) for part in parts] if _drops_axis(node) else parts


def _integers(op: Any, *numbers: int) -> ir.Value:
    return constant(op, np.array(numbers, np.int64))


def _place(node: ir.Node) -> int | None:
    """Return which part a SequenceAt takes, counted from the end where it is below 0; None where that varies."""
    place = node.inputs[1]
    return int(array_of(place).reshape(())) if place is not None and is_constant(place) else None


def _drops_axis(node: ir.Node) -> bool:
    """Whether the parts are to be of one element without its axis."""
    return number(node, "keepdims", 1) == 0


def _sizes(node: ir.Node) -> list[int] | None:
    """Return the sizes of the parts: as given, or all of one but the last (ONNX, SplitToSequence); None if unknown."""
    given, dims = input_at(node, 1), dims_of(node.inputs[0])
    if given is not None and not is_constant(given):
        return None
    if given is not None and array_of(given).ndim:
        return [int(size) for size in array_of(given)]
    axis, size = int(number(node, "axis", 0)), 1 if given is None else int(array_of(given))
    length = dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
    if not isinstance(length, int) or length < 1 or size < 1:
        return None
    return [min(size, length - start) for start in range(0, length, size)]
