"""Leave out initial states of recurrent layers that are zero, as they are when nothing is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, array_of, is_constant, is_standard
from mlc.graph_pass import Exactness
from passes._attention import with_own_sources
from passes._masks import COPIES

if TYPE_CHECKING:
    import onnx_ir as ir

INITIAL_STATES = (5, 6)
"""Where a recurrent layer reads its initial states: of the output, and of the cell that LSTM alone has."""


@dataclass(frozen=True)
class DropZeroStates(Search):
    """``LSTM(x, w, r, b, lengths, 0, 0)`` becomes ``LSTM(x, w, r, b, lengths)``; GRU and RNN likewise.

    Zeros of any size: those that a constant zero is expanded to, parts and rearrangements of them. A state that is not
    given is zero (ONNX, Operators, LSTM). Refuses a state that is computed and not known to be zero; a negative zero is
    another number, which need not give the same bits.
    """

    name: ClassVar[str] = "drop-zero-states"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    ends: ClassVar[frozenset[str]] = frozenset({"GRU", "LSTM", "RNN"})

    def look(self, node: ir.Node) -> Match | None:
        given = [node.inputs[place] for place in INITIAL_STATES if place < len(node.inputs)]
        states = [value for value in given if value is not None and not value.is_graph_input()]
        if not states:
            return None
        kept = [value for value in _kept(node) if value is not None]
        outputs = [output for output in node.outputs if output.name]
        return Match(with_own_sources([node], kept), outputs, {"node": node, "states": states})

    def check(self, node, states) -> str | None:
        return None if any(map(_is_zero, states)) else f"{states[0].name} is not known to be zero"

    def rewrite(self, op, node, states):
        inputs = _kept(node)
        while inputs[-1] is None:
            inputs.pop()
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        made = getattr(op, node.op_type)(*inputs, **attributes, _outputs=len(node.outputs))
        outputs = made if isinstance(made, tuple) else (made,)
        return [new for new, old in zip(outputs, node.outputs, strict=True) if old.name]


def _kept(node: ir.Node) -> list[ir.Value | None]:
    """Return the inputs of a layer without initial states that are zero; another input may be the same zeros."""
    return [
        None
        if place in INITIAL_STATES and value is not None and not value.is_graph_input() and _is_zero(value)
        else value
        for place, value in enumerate(node.inputs)
    ]


def _is_zero(value: ir.Value | None) -> bool:
    """Whether all elements of a value are positive zeros in every run."""
    if value is None:
        return False
    if is_constant(value):
        return not any(array_of(value).tobytes())
    node = value.producer()
    if node is None or not is_standard(node):
        return False
    if node.op_type == "ConstantOfShape":
        given = node.attributes.get("value")
        return given is None or not any(given.as_tensor().numpy().tobytes())
    if node.op_type in ("Concat", "Tile"):
        return all(map(_is_zero, node.inputs[: None if node.op_type == "Concat" else 1]))
    return node.op_type in COPIES | {"Split"} and _is_zero(node.inputs[0])
