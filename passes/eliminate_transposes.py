"""Remove transpositions that undo each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, producer
from mlc.graph_pass import Exactness

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class EliminateTransposes(Search):
    """``Transpose(Transpose(x))`` becomes one Transpose, or x where the axes stand as they stood.

    Refuses where the value between two is used elsewhere or is an output: the work would be done all the same.
    """

    name: ClassVar[str] = "eliminate-transposes"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    ends: ClassVar[frozenset[str]] = frozenset({"Transpose"})

    def look(self, node: ir.Node) -> Match | None:
        x, outer = node.inputs[0], _order(node)
        if x is None or outer is None:
            return None
        if outer == sorted(outer):
            return Match([node], node.outputs[:1], {"x": x, "order": outer})
        first = producer(x, "Transpose")
        inner = _order(first) if first is not None else None
        if first is None or inner is None or first.inputs[0] is None:
            return None
        order = [inner[axis] for axis in outer]
        return Match([first, node], node.outputs[:1], {"x": first.inputs[0], "order": order})

    def rewrite(self, op, x, order):
        return x if order == sorted(order) else op.Transpose(x, perm=order)


def _order(node: ir.Node) -> list[int] | None:
    """Return the order of axes of a Transpose, or None where the rank is not known."""
    given = node.attributes.get("perm")
    if given is not None:
        return None if given.is_ref() else list(given.as_ints())
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return None if shape is None else list(range(len(shape)))[::-1]
