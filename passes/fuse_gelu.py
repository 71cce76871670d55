"""Write a GELU that is spelled out as the one operator that it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, producer, product_of, scalar_of
from mlc.graph_pass import Exactness

if TYPE_CHECKING:
    import onnx_ir as ir

CLOSE = 1e-4
"""Relative difference up to which a constant is taken for the one of the formula."""

CUBIC = 0.044715


@dataclass(frozen=True)
class FuseGelu(Search):
    """``x * 0.5 * (1 + erf(x / sqrt(2)))`` becomes ``Gelu(x)``, and its form with tanh ``Gelu<approximate="tanh">(x)``.

    Both as Hendrycks and Gimpel have them (Gaussian Error Linear Units, arXiv 1606.08415, section 2); factors may be
    bracketed in any way, the cube may be a power or a product. Refuses where the constants differ from the formula's by
    more than 1e-4, where the rank of x is not known, and where a value inside is used elsewhere or is an output.
    """

    name: ClassVar[str] = "fuse-gelu"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    min_opset: ClassVar[int] = 20
    ends: ClassVar[frozenset[str]] = frozenset({"Mul"})

    def look(self, node: ir.Node) -> Match | None:
        whole = product_of(node.outputs[0], root=True)
        if len(whole.factors) != 2:
            return None
        for x, gate in (whole.factors, whole.factors[::-1]):
            found = _gate(gate)
            if found is None:
                continue
            total, function, inner = found
            argument = (_erf_argument if function.op_type == "Erf" else _tanh_argument)(inner, x)
            if argument is not None:
                nodes, wrong = argument
                wrong = wrong or _off(whole.scale, 0.5)
                inside = [*nodes, function, total, *whole.nodes]
                bound = {"x": x, "kind": function.op_type, "wrong": wrong}
                return Match(inside, node.outputs[:1], bound)
        return None

    def check(self, x, kind, wrong) -> str | None:
        if wrong:
            return f"a constant is not that of {'the error function' if kind == 'Erf' else 'the form with tanh'}"
        return None if x.shape is not None and len(x.shape) else "the rank of the input is not known"

    def rewrite(self, op, x, kind, wrong):
        return op.Gelu(x, approximate="none" if kind == "Erf" else "tanh")


def _gate(value: ir.Value) -> tuple[ir.Node, ir.Node, ir.Value] | None:
    """Return the sum ``1 + erf(u)``, its Erf or Tanh, and u."""
    total = producer(value, "Add")
    if total is None:
        return None
    for one, other in (total.inputs, total.inputs[::-1]):
        function = producer(other, "Erf") or producer(other, "Tanh")
        if scalar_of(one) == 1.0 and function is not None:
            inner = function.inputs[0]
            return None if inner is None else (total, function, inner)
    return None


def _erf_argument(inner: ir.Value, x: ir.Value) -> tuple[list[ir.Node], bool] | None:
    """Return the nodes of ``x / sqrt(2)``, and whether its constant is another one."""
    found = product_of(inner)
    if found.factors != [x]:
        return None
    return found.nodes, _off(found.scale, 1 / math.sqrt(2))


def _tanh_argument(inner: ir.Value, x: ir.Value) -> tuple[list[ir.Node], bool] | None:
    """Return the nodes of ``sqrt(2 / pi) * (x + 0.044715 * x**3)``, and whether one of its constants is another."""
    outer = product_of(inner)
    if len(outer.factors) != 1:
        return None
    node = producer(outer.factors[0], "Add")
    if node is None or x not in node.inputs:
        return None
    (other,) = [value for value in node.inputs if value is not x] or [None]
    if other is None:
        return None
    cubic = product_of(other)
    cube = _cube(cubic.factors, x)
    wrong = _off(cubic.scale, CUBIC) or _off(outer.scale, math.sqrt(2 / math.pi))
    return None if cube is None else ([*cube, *cubic.nodes, node, *outer.nodes], wrong)


def _cube(factors: list[ir.Value], x: ir.Value) -> list[ir.Node] | None:
    """Return the nodes that make ``x**3`` of factors, or None where it is something else."""
    if factors == [x, x, x]:
        return []
    power = producer(factors[0], "Pow") if len(factors) == 1 else None
    if power is None or power.inputs[0] is not x or scalar_of(power.inputs[1]) != 3.0:
        return None
    return [power]


def _off(found: float, wanted: float) -> bool:
    return abs(found / wanted - 1) > CLOSE
