"""Write a GELU that is spelled out as the one operator that it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Product, Search, near_miss, producer, product_of, scalar_of
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
    bracketed in any way, the cube may be a power or a product, or x a factor of ``1 + 0.044715 * x**2``. Refuses where
    the constants differ from the formula's by more than 1e-4, where it is written with a sigmoid, with ``1 - erf(-x)``,
    without the cube or multiplied out, where the rank of x is not known, and where a value inside is used elsewhere or
    is an output.
    """

    name: ClassVar[str] = "fuse-gelu"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    min_opset: ClassVar[int] = 20
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "Div", "Mul"})

    def look(self, node: ir.Node) -> Match | None:
        return _spelled(node) or near_miss(node, _other_form(node))

    def check(self, x, kind, wrong) -> str | None:
        if wrong:
            return f"a constant is not that of {'the error function' if kind == 'Erf' else 'the form with tanh'}"
        return None if x.shape is not None and len(x.shape) else "the rank of the input is not known"

    def rewrite(self, op, x, kind, wrong):
        return op.Gelu(x, approximate="none" if kind == "Erf" else "tanh")


def _spelled(node: ir.Node) -> Match | None:
    """Return the match of a product that is a GELU but for its constants, or None."""
    whole = product_of(node.outputs[0], root=True)
    if len(whole.factors) != 2:
        return None
    for x, gate in (whole.factors, whole.factors[::-1]):
        found = _gate(gate)
        if found is None:
            continue
        function, inner, scale, summing = found
        argument = (_erf_argument if function.op_type == "Erf" else _tanh_argument)(inner, x)
        if argument is not None:
            nodes, wrong = argument
            wrong = wrong or _off(whole.scale * scale, 0.5)
            if wrong and _goes_on(node.outputs[0]):
                return None
            inside = [*nodes, function, *summing, *whole.nodes]
            bound = {"x": x, "kind": function.op_type, "wrong": wrong}
            return Match(inside, node.outputs[:1], bound)
    return None


def _other_form(node: ir.Node) -> str:
    """Return in which other form a GELU is written, or nothing where a node ends none."""
    if node.op_type == "Add":
        return _multiplied_out(*node.inputs)
    whole = product_of(node.outputs[0], root=True)
    if len(whole.factors) != 2 or _goes_on(node.outputs[0]):
        return ""
    for x, gate in (whole.factors, whole.factors[::-1]):
        sigmoid, complement, found = producer(gate, "Sigmoid"), producer(gate, "Sub"), _gate(gate)
        inner = sigmoid.inputs[0] if sigmoid is not None else None
        if inner is not None and _tanh_argument(inner, x) is not None:
            return "it is written with a sigmoid in the place of the tanh"
        error = producer(complement.inputs[1], "Erf") if complement is not None else None
        if (
            complement is not None
            and error is not None
            and scalar_of(complement.inputs[0]) == 1.0
            and _is_of(error.inputs[0], x)
        ):
            return "it is written with 1 - erf(-x), and not with 1 + erf(x)"
        if (
            found is not None
            and found[0].op_type == "Tanh"
            and _is_of(found[1], x)
            and not _off(whole.scale * found[2], 0.5)
        ):
            return "there is no cube of x under the tanh"
    return ""


def _multiplied_out(one: ir.Value | None, other: ir.Value | None) -> str:
    """Return what is said of ``0.5 * x + 0.5 * x * erf(u)``, or nothing for another sum."""
    if one is None or other is None:
        return ""
    for plain, gated in ((product_of(one), product_of(other)), (product_of(other), product_of(one))):
        functions = [producer(factor, "Erf") or producer(factor, "Tanh") for factor in gated.factors]
        rest = [factor for factor, function in zip(gated.factors, functions, strict=True) if function is None]
        function = next(filter(None, functions), None)
        inner = function.inputs[0] if function is not None else None
        if inner is None or function is None or rest != plain.factors or len(rest) != 1 or gated.scale != plain.scale:
            continue
        sources = product_of(rest[0], root=True).factors
        of_x = [_is_of(inner, x) or _tanh_argument(inner, x) is not None for x in sources]
        if any(of_x):
            return "x is multiplied out, so that both summands have it"
    return ""


def _is_of(value: ir.Value | None, x: ir.Value) -> bool:
    """Whether a value is x times a number, whatever its sign."""
    found = product_of(value) if value is not None else Product()
    negative = producer(found.factors[0], "Neg") if len(found.factors) == 1 else None
    return found.factors == [x] or (negative is not None and negative.inputs[0] is x)


def _goes_on(product: ir.Value) -> bool:
    """Whether a product is only a part of one that has a further constant factor."""
    readers = [use.node for use in product.uses()]
    return len(readers) == 1 and product_of(readers[0].outputs[0], root=True).scale != 1.0


def _gate(value: ir.Value) -> tuple[ir.Node, ir.Value, float, list[ir.Node]] | None:
    """Return the Erf or Tanh, u and c of ``c + c * erf(u)``, where c is any number, and the nodes of the sum."""
    total = _total(value)
    for one, other in (total.inputs, total.inputs[::-1]) if total is not None else ():
        scale = scalar_of(one)
        if total is None or other is None or not scale:
            continue
        inside = product_of(other)
        factor = inside.factors[0] if len(inside.factors) == 1 else None
        function = producer(factor, "Erf") or producer(factor, "Tanh")
        inner = function.inputs[0] if function is not None else None
        if function is not None and inner is not None and inside.scale == scale:
            return function, inner, scale, [*inside.nodes, total]
    return None


def _total(value: ir.Value) -> ir.Node | None:
    """Return the node that adds two values to this one."""
    node = producer(value, "Add") or producer(value, "Sum")
    return node if node is not None and len(node.inputs) == 2 else None


def _erf_argument(inner: ir.Value, x: ir.Value) -> tuple[list[ir.Node], bool] | None:
    """Return the nodes of ``x / sqrt(2)``, and whether its constant is another one."""
    found = product_of(inner)
    if found.factors != [x]:
        return None
    return found.nodes, _off(found.scale, 1 / math.sqrt(2))


def _tanh_argument(inner: ir.Value, x: ir.Value) -> tuple[list[ir.Node], bool] | None:
    """Return the nodes of ``sqrt(2 / pi) * (x + 0.044715 * x**3)``, and whether one of its constants is another.

    With x as a factor it is ``sqrt(2 / pi) * x * (1 + 0.044715 * x**2)``.
    """
    outer = product_of(inner)
    sums = [factor for factor in outer.factors if factor is not x]
    if len(sums) != 1 or len(outer.factors) > 2:
        return None
    total, before = _total(sums[0]), len(outer.factors) == 2
    for first, other in (total.inputs, total.inputs[::-1]) if total is not None else ():
        if other is None or not (scalar_of(first) == 1.0 if before else first is x):
            continue
        inside = product_of(other)
        power = _power(inside.factors, x, 2 if before else 3)
        if total is not None and power is not None:
            nodes, other_exponent = power
            wrong = other_exponent or _off(inside.scale, CUBIC) or _off(outer.scale, math.sqrt(2 / math.pi))
            return [*nodes, *inside.nodes, total, *outer.nodes], wrong
    return None


def _power(factors: list[ir.Value], x: ir.Value, exponent: int) -> tuple[list[ir.Node], bool] | None:
    """Return the nodes that make a power of x of factors, and whether it is another; None where it is none."""
    if factors == [x] * exponent:
        return [], False
    power = producer(factors[0], "Pow") if len(factors) == 1 else None
    if power is None or power.inputs[0] is not x or scalar_of(power.inputs[1]) is None:
        return None
    return [power], scalar_of(power.inputs[1]) != exponent


def _off(found: float, wanted: float) -> bool:
    return abs(found / wanted - 1) > CLOSE
