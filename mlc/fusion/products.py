"""Products however they are bracketed: factors that are values, and one number for all that are constant."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from mlc.fusion.graph import array_of, is_constant, is_standard


@dataclass
class Product:
    """``scale`` times the ``factors``, as the ``nodes`` compute it."""

    scale: float = 1.0
    factors: list[ir.Value] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)


def product_of(value: ir.Value, *, root: bool = False) -> Product:
    """Return a value as a product; what others read too is taken apart no further, unless it is the ``root``."""
    number = scalar_of(value)
    if number is not None:
        return Product(number)
    node = value.producer()
    if node is None or not is_standard(node) or node.op_type not in ("Mul", "Div") or not (root or _alone(value)):
        return Product(factors=[value])
    left, right = node.inputs
    assert left is not None
    assert right is not None
    if node.op_type == "Div":
        divisor = scalar_of(right)
        if not divisor:
            return Product(factors=[value])
        inner = product_of(left)
        return Product(inner.scale / divisor, inner.factors, [*inner.nodes, node])
    first, second = product_of(left), product_of(right)
    return Product(first.scale * second.scale, [*first.factors, *second.factors], [*first.nodes, *second.nodes, node])


def scalar_of(value: ir.Value | None) -> float | None:
    """Return the number that a constant of one element holds, or None; one of more axes might broadcast."""
    if value is None or not is_constant(value):
        return None
    array = array_of(value)
    return float(array.reshape(())) if array.shape in ((), (1,)) and array.dtype.kind == "f" else None


def _alone(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()
