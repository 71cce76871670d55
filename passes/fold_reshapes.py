"""Write a chain of reshapes as one whose target is known before the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.fusion import Match, Search, Size, completed, constant, dims_of, is_constant, is_standard, may_be_none
from mlc.graph_pass import Exactness
from passes._attention import with_own_sources

if TYPE_CHECKING:
    import onnx_ir as ir

COPIED, COMPUTED = 0, -1
"""What stands in the target of a Reshape for the size of the same axis of the input, and for the one left over."""


@dataclass(frozen=True)
class FoldReshapes(Search):
    """``Reshape(Unsqueeze(x), Concat(Shape(x)[:1], ...))`` becomes ``Reshape(x, [0, 4, -1])``.

    Reshape, Flatten, Squeeze, Unsqueeze, a Transpose that moves only axes of size 1 and an Expand that repeats nothing
    give the elements of x in their order: a chain of them is one Reshape, or x itself where all sizes stand as they
    stood. What a target is computed from is not needed any more. A single one that changes sizes stays as it is, but
    for such a Transpose and a target that is computed.

    Refuses where the number of axes is not known, where an axis is empty, where the sizes of two axes are known only
    when the model runs, and where one is beside another that may be empty, or follows from values: onnxruntime has no
    -1 there, and a size of 0 that is computed means another.
    """

    name: ClassVar[str] = "fold-reshapes"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    ends: ClassVar[frozenset[str]] = frozenset({"Expand", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

    def look(self, node: ir.Node) -> Match | None:
        if not _keeps_order(node) or is_constant(node.inputs[0]) or _goes_on(node):
            return None
        chain = [node]
        while (before := _before(chain[-1])) is not None:
            chain.append(before)
        computed = node.op_type == "Reshape" and not is_constant(node.inputs[1])
        x = chain[-1].inputs[0]
        alone = len(chain) == 1 and not computed and node.op_type != "Transpose"
        if alone and not _unchanged(x, node.outputs[0]):
            return None
        return Match(with_own_sources(chain, [x]), node.outputs[:1], {"x": x, "y": node.outputs[0]})

    def check(self, x, y) -> str | None:
        if dims_of(x) is None or dims_of(y) is None:
            return "the number of axes is not known"
        before, after = _sizes(x, y)
        target = _target(before, after)
        if any(size == 0 and kept != COPIED for size, kept in zip(after, target, strict=True)):
            return "an axis is empty"
        if target.count(COMPUTED) > 1:
            return "the sizes of two axes are known only when the model runs"
        if COMPUTED in target and may_be_none(x, [*before, *after]):
            return "the sizes follow from values, and an axis may be empty"
        if COMPUTED in target and COPIED in target:
            return "one size is known only when the model runs, and another axis may be empty"
        return None

    def rewrite(self, op, x, y):
        before, after = _sizes(x, y)
        return x if before == after else op.Reshape(x, constant(op, np.array(_target(before, after), np.int64)))


def _sizes(x: ir.Value, y: ir.Value) -> tuple[list[Size], list[Size]]:
    """Return the sizes of both values."""
    before, after = dims_of(x), dims_of(y)
    assert before is not None
    assert after is not None
    return before, completed(before, after)


def _unchanged(x: ir.Value | None, y: ir.Value) -> bool:
    """Whether a reshape is known to leave all sizes as they are in every run."""
    before, after = dims_of(x), dims_of(y)
    return before is not None and after is not None and completed(before, after) == before


def _repeats_nothing(expand: ir.Node) -> bool:
    """Whether an Expand is known to: a size that it has not told may be larger than the one before."""
    before = dims_of(expand.inputs[0])
    return before is not None and before == dims_of(expand.outputs[0])


def _target(before: list[Size], after: list[Size]) -> list[int]:
    """Return the target of the Reshape between two shapes."""
    target = []
    for axis, size in enumerate(after):
        same = axis < len(before) and before[axis] == size
        if isinstance(size, int) and size > 0:
            target.append(size)
        else:
            target.append(COPIED if same else COMPUTED)
    return target


def _keeps_order(node: ir.Node) -> bool:
    """Whether a node gives the elements of its first input in their order."""
    if not is_standard(node) or node.op_type not in FoldReshapes.ends:
        return False
    if node.op_type == "Expand":
        return _repeats_nothing(node)
    if node.op_type != "Transpose":
        return True
    dims, perm = dims_of(node.inputs[0]), node.attributes.get("perm")
    if dims is None or perm is None or perm.is_ref():
        return False
    moved = [axis for axis in perm.as_ints() if dims[axis] != 1]
    return moved == sorted(moved)


def _before(node: ir.Node) -> ir.Node | None:
    """Return the node of the chain before one, where nothing else reads what it gives."""
    value = node.inputs[0]
    first = value.producer() if value is not None else None
    if value is None or first is None or first.graph is not node.graph or not _keeps_order(first):
        return None
    alone = not value.is_graph_output() and {use.node for use in value.uses()} == {node}
    return first if alone and not is_constant(first.inputs[0]) else None


def _goes_on(node: ir.Node) -> bool:
    """Whether the chain does not end at a node."""
    return any(_keeps_order(use.node) and _before(use.node) is node for use in node.outputs[0].uses())
