"""Write a layer normalization that is spelled out as the one operator that it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from mlc.formats import number
from mlc.fusion import Match, Search, near_miss, producer
from mlc.graph_pass import Exactness
from passes._near_norms import CAST, near_layer_norm
from passes._norms import OUTSIDE, Root, fits_last, over_last, root_of

if TYPE_CHECKING:
    import onnx_ir as ir


EPSILON = 1e-5
"""What an RMSNormalization adds that does not say."""


@dataclass(frozen=True)
class FuseLayerNorm(Search):
    """``(x - mean(x)) / sqrt(mean((x - mean(x))**2) + epsilon) * w + b`` becomes ``LayerNormalization(x, w, b)``.

    As Ba, Kiros and Hinton have it (Layer Normalization, arXiv 1607.06450, section 3); also what torch.onnx makes of it
    at opset 23 where it is multiplied by one over the root, ``RMSNormalization(x - mean(x), w) + b``. Refuses where a
    mean is not over the last axis, where epsilon is outside of the root, a lower bound or missing, where the variance
    is computed in another way, where w or b is missing or does not have one element for each of the axis, and where a
    value inside is used elsewhere or is an output.
    """

    name: ClassVar[str] = "fuse-layer-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    min_opset: ClassVar[int] = 17
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "Div", "Mul", "RMSNormalization", "Sub"})

    def look(self, node: ir.Node) -> Match | None:
        for scaled, bias in (node.inputs, node.inputs[::-1]) if node.op_type == "Add" else ():
            for x, weight, root, last, inside in _norms(scaled):
                bound = {"x": x, "weight": weight, "bias": bias, "root": root, "last": last}
                return Match([*inside, node], node.outputs[:1], bound)
        return near_miss(node, _reason(node))

    def check(self, x, weight, bias, root, last) -> str | None:
        if root.outside:
            return OUTSIDE
        if not last:
            return "a mean is not over the last axis"
        for role, value in (("weight", weight), ("bias", bias)):
            if not fits_last(value, x):
                return f"the {role} does not have one element for each of the last axis"
        return None

    def rewrite(self, op, x, weight, bias, root, last):
        return op.LayerNormalization(x, weight, bias, axis=-1, epsilon=root.epsilon, stash_type=1)


def _reason(node: ir.Node) -> str:
    """Return why what ends at a node is no layer normalization, or nothing where it is not like one."""
    last = node.outputs[0]
    readers = {use.node.op_type for use in last.uses()}
    if node.op_type == "RMSNormalization":
        return "" if "Add" in readers or _rooted(last) is None else "there is no bias that is added"
    if node.op_type in ("Add", "Sub"):
        found = [(pair, weight) for value in node.inputs for *pair, weight, _ in _scaled(value)]
    elif readers & {"Add", "Div", "Mul", "Sub"}:
        return ""  # it is told where that ends
    else:
        found = [(pair, weight) for *pair, weight, _ in _scaled(last)]
        found += [(list(node.inputs[:2]), None)] if node.op_type == "Div" else []
    for (difference, below), weight in found:
        whole = _normalized(difference, root_of(below))
        wrong = near_layer_norm(difference, below)
        if whole is None and wrong:
            return wrong
        if whole is not None and node.op_type != "Add" and (weight is not None or whole[2]):
            missing = "weight" if weight is None else "bias that is added"
            return CAST if "Cast" in readers else f"there is no {missing}"
    return ""


def _norms(value: ir.Value | None) -> Iterator[tuple[ir.Value, ir.Value | None, Root, bool, list[ir.Node]]]:
    """Yield x, w and the root of the normalizations that a value is, whether all is over the last axis, the nodes."""
    for difference, below, weight, nodes in _scaled(value):
        found = _normalized(difference, root_of(below))
        if found is not None:
            x, root, last, inside = found
            yield x, weight, root, last, [*inside, *nodes]
    rooted = _rooted(value)
    if rooted is not None:
        x, weight, root, nodes = rooted
        yield x, weight, root, root.last, nodes


Scaled: TypeAlias = "tuple[ir.Value | None, ir.Value | None, ir.Value | None, list[ir.Node]]"


def _scaled(value: ir.Value | None) -> Iterator[Scaled]:
    """Yield d, s and w of ``d / s * w`` and ``d * w / s``, whichever way the factors stand, and the nodes."""
    product, quotient = producer(value, "Mul"), producer(value, "Div")
    if product is not None:
        for factor, weight in (product.inputs, product.inputs[::-1]):
            division = producer(factor, "Div")
            if division is not None:
                yield division.inputs[0], division.inputs[1], weight, [division, product]
    product = producer(quotient.inputs[0], "Mul") if quotient is not None else None
    if quotient is not None and product is not None:
        for factor, weight in (product.inputs, product.inputs[::-1]):
            yield factor, quotient.inputs[1], weight, [product, quotient]


def _normalized(difference: ir.Value | None, root: Root | None) -> tuple[ir.Value, Root, bool, list[ir.Node]] | None:
    """Return x of ``x - mean(x)`` over its root, the root, whether both means are over the last axis, and the nodes."""
    if root is None:
        return None
    above, inside = _centred(difference), _centred(root.squared)
    if above is None or inside is None or above[0] is not inside[0]:
        return None
    nodes = dict.fromkeys([*above[1], *inside[1], *root.nodes])
    last = root.last and all(over_last(node) for node in nodes if node.op_type == "ReduceMean")
    return above[0], root, last, list(nodes)


def _rooted(value: ir.Value | None) -> tuple[ir.Value, ir.Value | None, Root, list[ir.Node]] | None:
    """Return x, w and the root of ``RMSNormalization(x - mean(x), w)``, and the nodes."""
    norm = producer(value, "RMSNormalization")
    centred = _centred(norm.inputs[0]) if norm is not None else None
    if norm is None or centred is None:
        return None
    x, nodes = centred
    axis, rank = int(number(norm, "axis", -1)), len(x.shape) if x.shape is not None else 0
    last = axis in (-1, rank - 1) and over_last(nodes[0])
    root = Root(nodes[1].outputs[0], number(norm, "epsilon", EPSILON), [norm], last)
    return x, norm.inputs[1], root, [*nodes, norm]


def _centred(value: ir.Value | None) -> tuple[ir.Value, list[ir.Node]] | None:
    """Return x of ``x - mean(x)``, and the nodes."""
    difference = producer(value, "Sub")
    mean = producer(difference.inputs[1], "ReduceMean") if difference is not None else None
    if difference is None or mean is None or mean.inputs[0] is not difference.inputs[0]:
        return None
    x = difference.inputs[0]
    return None if x is None else (x, [mean, difference])
