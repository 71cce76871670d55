"""Fold a scale per channel after a linear layer into its weight and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.formats import input_at, number
from mlc.fusion import Match, Search, array_of, constant, is_constant, near_miss, only_reader, producer
from mlc.graph_pass import Exactness
from passes._affine import TOO_SMALL, has_inverse
from passes._linear import MATRIX, Linear, linear_of
from passes._shared import stored_twice

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FoldLayerScale(Search):
    """``(x @ w + b) * s`` becomes ``x @ (w * s) + b * s``: one pass over the activations less.

    With a bias or without, as a Gemm or as a MatMul; ``/ s`` is ``* (1 / s)``; a Gemm's own ``alpha`` and ``beta`` are
    folded too, which leaves one that other passes and kernels know. Refuses unless w, b and s are constant
    and not overridable, w is a matrix or a stack of them, s runs along its last axis (rank 1), without zeros where it
    divides, and b has rank 1 at most; where ``x @ w`` or ``x @ w + b`` is used elsewhere or is an output of the graph;
    where w has more than a megabyte and is read elsewhere, so that it would be stored twice; and where axes
    are exchanged before the scale. What scales a convolution fold-batch-norm folds.
    """

    name: ClassVar[str] = "fold-layer-scale"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-5
    ends: ClassVar[frozenset[str]] = frozenset({"Div", "Gemm", "Mul"})

    def look(self, node: ir.Node) -> Match | None:
        if node.op_type == "Gemm":
            return self._own_factors(node)
        for scaled, scale in (node.inputs, node.inputs[::-1])[: 1 + (node.op_type == "Mul")]:
            layer = _layer(scaled) if _is_given(scale, 1) else None
            if layer is not None and _is_given(layer.weight, 2) and not _is_in_an_activation(scaled, scale):
                bound = {"layer": layer, "scale": scale, "divides": node.op_type == "Div"}
                return Match([*layer.nodes, node], node.outputs, bound)
            found = near_miss(node, _elsewhere(scaled, scale))
            if found is not None:
                return found
        return None

    def _own_factors(self, node: ir.Node) -> Match | None:
        """Return a Gemm with factors of its own that no scale behind it takes with it."""
        layer, reader = linear_of(node.outputs[0]), only_reader(node.outputs[0])
        own = number(node, "alpha", 1) != 1 or (input_at(node, 2) is not None and number(node, "beta", 1) != 1)
        if layer is None or not own or not _is_given(layer.weight, 2):
            return None
        if reader is not None and reader.op_type in ("Div", "Mul") and self._folds(reader):
            return None
        return Match([node], node.outputs, {"layer": layer, "scale": None, "divides": False})

    def _folds(self, node: ir.Node) -> bool:
        """Whether a scale is folded into what is before it."""
        found = self.look(node)
        return found is not None and not found.reason and self.check(**found.bindings) is None

    def check(self, layer, scale, divides) -> str | None:
        w, b, gemm = layer.weight, layer.bias, layer.nodes[0].op_type == "Gemm"
        for role, value in (("weight", w), ("bias", b), ("scale", scale)):
            if value is not None and not is_constant(value):
                return f"the {role} is not constant"
        columns = array_of(w).shape[0 if gemm and layer.transposes_weight else -1]
        reasons = (
            (array_of(w).ndim < MATRIX, "the weight is not a matrix"),
            (scale is not None and array_of(scale).shape != (columns,), "the scale does not run along the last axis"),
            (b is not None and not gemm and array_of(b).ndim > 1, "the bias does not run along the last axis"),
            (divides and not has_inverse(array_of(scale)), TOO_SMALL),
        )
        reason = next((reason for holds, reason in reasons if holds), None)
        return reason or (layer.reason_to_stay() if gemm else None) or stored_twice(w, len(w.uses()) - 1)

    def rewrite(self, op, layer, scale, divides):
        factor = 1.0 if scale is None else np.reciprocal(array_of(scale)) if divides else array_of(scale)
        if layer.nodes[0].op_type == "Gemm":
            return layer.written(op, layer.matrix() * factor, None if layer.bias is None else layer.offset() * factor)
        made = op.MatMul(layer.x, constant(op, array_of(layer.weight) * factor))
        return made if layer.bias is None else op.Add(made, constant(op, array_of(layer.bias) * factor))


def _layer(value: ir.Value | None) -> Linear | None:
    """Return the linear layer that gives a value, whatever its bias, or None."""
    total = producer(value, "Add")
    for product, bias in (total.inputs, total.inputs[::-1]) if total is not None else ():
        found = linear_of(product)
        if found is not None and total is not None and [node.op_type for node in found.nodes] == ["MatMul"]:
            return Linear(found.x, found.weight, bias, (*found.nodes, total))
    return linear_of(value) if total is None else None


def _is_given(value: ir.Value | None, axes: int) -> bool:
    """Whether a value is constant, or one of so many axes that a caller may give in the place of a constant."""
    if value is None or is_constant(value):
        return value is not None
    return value.producer() is None and value.shape is not None and len(value.shape) == axes


def _is_in_an_activation(scaled: ir.Value | None, scale: ir.Value | None) -> bool:
    """Whether a number multiplies what is read elsewhere too, as in an activation: that is no scale of the layer."""
    single = scale is not None and is_constant(scale) and array_of(scale).size == 1
    return single and scaled is not None and len(scaled.uses()) > 1


def _elsewhere(scaled: ir.Value | None, scale: ir.Value | None) -> str:
    """Return where else a constant scale per channel stands, or nothing."""
    node = scaled.producer() if scaled is not None else None
    if scale is None or not is_constant(scale) or array_of(scale).size < 2 or node is None:
        return ""
    linear = linear_of(node.inputs[0]) if producer(scaled, "Transpose") is not None else None
    between = linear is not None and is_constant(linear.weight)
    return "a Transpose stands between the layer and the scale" if between else ""
