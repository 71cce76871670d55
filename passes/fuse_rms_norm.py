"""Write a root mean square normalization that is spelled out as the one operator that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, near_miss, producer, product_of
from mlc.graph_pass import Exactness
from passes._near_norms import NO_WEIGHT, is_centred, near_rms_norm
from passes._norms import NOT_LAST, OUTSIDE, Root, fits_last, root_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FuseRmsNorm(Search):
    """``x / sqrt(mean(x**2) + epsilon) * w`` becomes ``RMSNormalization(x, w)`` of opset 23.

    As Zhang and Sennrich have it (Root Mean Square Layer Normalization, arXiv 1910.07467, equation 4). Refuses where
    the mean is not over the last axis, or a sum or a norm, where epsilon is outside of the root, a lower bound or
    missing, where the root is a power, where w is missing or does not have one element for each of the axis, where
    there is another factor, and where a value inside is used elsewhere or is an output.
    """

    name: ClassVar[str] = "fuse-rms-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    min_opset: ClassVar[int] = 23
    ends: ClassVar[frozenset[str]] = frozenset({"Div", "Mul"})

    def look(self, node: ir.Node) -> Match | None:
        whole = product_of(node.outputs[0], root=True)
        for factor in whole.factors:
            found = _normalized(factor, whole.factors)
            if found is None or not found.others:
                continue
            nodes = [*found.root.nodes, *found.nodes, *whole.nodes]
            scale = whole.scale * found.scale
            bound = {"x": found.root.squared, "root": found.root, "others": found.others, "scale": scale}
            match = Match(nodes, node.outputs[:1], bound)
            return None if is_centred(found.root.squared) and self.check(**bound) else match
        return near_miss(node, near_rms_norm(node))

    def check(self, x, root, others, scale) -> str | None:
        if root.outside:
            return OUTSIDE
        if not root.last:
            return NOT_LAST
        if len(others) != 1 or scale != 1.0:
            return NO_WEIGHT
        return None if fits_last(others[0], x) else "the weight does not have one element for each of the last axis"

    def rewrite(self, op, x, root, others, scale):
        return op.RMSNormalization(x, others[0], axis=-1, epsilon=root.epsilon, stash_type=1)


@dataclass(frozen=True)
class _Normalized:
    """The root that x is divided by, the nodes of that fraction or its reciprocal, and what is a factor beside x."""

    root: Root
    nodes: list[ir.Node]
    others: list[ir.Value]
    scale: float = 1.0


def _normalized(factor: ir.Value, factors: list[ir.Value]) -> _Normalized | None:
    """Return what a factor is of a normalization: x over its root, a product of x over it, or its reciprocal."""
    division, reciprocal = producer(factor, "Div"), producer(factor, "Reciprocal")
    rest = _without(factors, factor)
    if division is not None and division.inputs[0] is not None:
        root, above = root_of(division.inputs[1]), product_of(division.inputs[0])
        if root is not None and any(one is root.squared for one in above.factors):
            others = [*_without(above.factors, root.squared), *rest]
            return _Normalized(root, [*above.nodes, division], others, above.scale)
    if reciprocal is not None:
        root = root_of(reciprocal.inputs[0])
        if root is not None and any(one is root.squared for one in rest):
            return _Normalized(root, [reciprocal], _without(rest, root.squared))
    return None


def _without(factors: list[ir.Value], one: ir.Value) -> list[ir.Value]:
    """Return factors without one of them: the same one may be there twice."""
    place = next(place for place, each in enumerate(factors) if each is one)
    return [*factors[:place], *factors[place + 1 :]]
