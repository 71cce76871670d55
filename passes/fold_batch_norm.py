"""Fold a batch normalization into the convolution or the linear layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlc.fusion import Match, Search, array_of, near_miss, only_reader
from mlc.graph_pass import Exactness
from passes._affine import index_of_input, reason_to_stay, scale_and_shift
from passes._convolution import Convolution, convolution_of
from passes._linear import MATRIX, Linear, linear_of
from passes._shared import stored_twice

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FoldBatchNorm(Search):
    """``(conv(x, w) + b - mean) * s + bias`` becomes ``conv(x, w * s) + (b - mean) * s + bias``, one operator less.

    ``s = scale / sqrt(variance + epsilon)`` runs along the output channels of a Conv or a ConvTranspose, of any groups,
    or along the columns of a Gemm or a MatMul, whose result must have two axes, since a normalization's channels are
    axis 1. One that is written by hand is folded a step at a time: a Mul, Div, Add or Sub of a constant that runs along
    the channels of a convolution. Refuses where it follows anything else and no convolution follows it, where a value
    inside is used elsewhere or is an output of the graph, where any weight or statistic is not constant, has another
    dtype or another length, in training mode, where further outputs of the normalization are read, where ``variance +
    epsilon`` is not positive, and where a weight of more than a megabyte would be stored twice, since it is read
    without this normalization too.
    """

    name: ClassVar[str] = "fold-batch-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    ends: ClassVar[frozenset[str]] = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})

    def look(self, node: ir.Node) -> Match | None:
        if node.op_type != "BatchNormalization":
            return _by_hand(node)
        layer = convolution_of(node.inputs[0]) or linear_of(node.inputs[0])
        if layer is not None:
            return Match([*layer.nodes, node], node.outputs[:1], {"layer": layer, "normalization": node, "index": 0})
        reader = only_reader(node.outputs[0])
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        if before is None or (reader and reader.op_type == "Conv"):
            return None  # into a convolution behind it fold-pre-norm folds it, or says why not
        came = f"what it normalizes comes from {before.op_type}, and not from a convolution or a linear layer"
        return near_miss(node, came)

    def check(self, layer, normalization, index) -> str | None:
        reason = layer.reason_to_stay()
        if reason is None and isinstance(layer, Linear):
            reason = _reason_of_axes(normalization.inputs[0])
        reason = reason or reason_to_stay(normalization, index, layer.weight, len(layer.offset()))
        if reason is not None:
            return reason
        readers = {use.node for use in layer.weight.uses()} - set(layer.nodes)
        return stored_twice(layer.weight, sum(not _folds_alike(each, layer, normalization) for each in readers))

    def rewrite(self, op, layer, normalization, index):
        return layer.scaled(op, *scale_and_shift(normalization, index, len(layer.offset())))


def _by_hand(node: ir.Node) -> Match | None:
    """Return the match of one step that is written by hand, or None.

    One number beside a value that others read too is part of an activation.
    """
    index = index_of_input(node)
    value = None if index is None else node.inputs[index]
    layer, other = convolution_of(value), None if index is None else node.inputs[1 - index]
    if layer is None or value is None or other is None or (array_of(other).size == 1 and only_reader(value) is None):
        return None
    return Match([layer.node, node], node.outputs, {"layer": layer, "normalization": node, "index": index})


def _folds_alike(product: ir.Node, layer: Convolution | Linear, normalization: ir.Node) -> bool:
    """Whether another product by the weight of a layer gets the same weight: an equal normalization follows it."""
    follower = only_reader(product.outputs[0])
    if follower is not None and follower.op_type == "Add" and layer.bias is not None and layer.bias in follower.inputs:
        follower = only_reader(follower.outputs[0])
    if follower is None or follower.op_type != normalization.op_type or follower.graph is not normalization.graph:
        return False
    if follower.inputs[1:] != normalization.inputs[1:]:
        return False
    one, other = (scale_and_shift(each, 0, len(layer.offset()))[0] for each in (follower, normalization))
    return np.array_equal(one, other)


def _reason_of_axes(product: ir.Value) -> str | None:
    if product.shape is None:
        return "the rank of the product is not known"
    return None if len(product.shape) == MATRIX else "the channels of the normalization are not the product's columns"
