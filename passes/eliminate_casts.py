"""Remove conversions that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.fusion import Match, Search, producer
from mlc.graph_pass import Exactness

if TYPE_CHECKING:
    import onnx_ir as ir

MANTISSA = {"float16": 11, "float32": 24, "float64": 53}
"""Bits of whole numbers that a float holds exactly."""


KNOWN = frozenset({*MANTISSA, "bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))})


@dataclass(frozen=True)
class EliminateCasts(Search):
    """``Cast(x)`` or ``CastLike(x, y)`` to the dtype of x becomes x; so does the way there and back by a wider one.

    A wider dtype is one that holds every value of x. Refuses the way through a dtype that loses something, such as
    float32 to float16 and back, and one whose middle is used elsewhere or is an output.
    """

    name: ClassVar[str] = "eliminate-casts"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    ends: ClassVar[frozenset[str]] = frozenset({"Cast", "CastLike"})

    def look(self, node: ir.Node) -> Match | None:
        x, y = node.inputs[0], node.outputs[0]
        if x is None or x.dtype is None or y.dtype is None:
            return None
        if x.dtype == y.dtype:
            return Match([node], [y], {"x": x, "through": x})
        first = producer(x, "Cast") or producer(x, "CastLike")
        if first is None:
            return None
        source = first.inputs[0]
        if source is None or source.dtype != y.dtype:
            return None
        return Match([first, node], [y], {"x": source, "through": x})

    def check(self, x, through) -> str | None:
        if x is through or holds(through.dtype, x.dtype):
            return None
        return f"{through.dtype.name} does not hold all of {x.dtype.name}"

    def rewrite(self, op, x, through):
        return x


def holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Whether every value of one dtype is a value of another."""
    names = [_name(dtype) for dtype in (wide, narrow)]
    if None in names:
        return False
    to, of = (np.dtype(str(name)) for name in names)
    if of.kind == "b" or (of.kind == to.kind and of.itemsize <= to.itemsize and of.kind in "iuf"):
        return to.kind in "iufb"
    if to.kind == "f" and of.kind in "iu":
        return of.itemsize * 8 - (of.kind == "i") <= MANTISSA.get(to.name, 0)
    return to.kind == "i" and of.kind == "u" and of.itemsize < to.itemsize


def _name(dtype: ir.DataType) -> str | None:
    """Return NumPy's own name of a dtype, or None where NumPy has none: other 16-bit floats hold other values."""
    name = dtype.name.lower()
    name = {"float": "float32", "double": "float64"}.get(name, name)
    return name if name in KNOWN else None
