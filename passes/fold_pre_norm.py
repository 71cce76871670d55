"""Fold a scale and a shift for each channel into the convolution behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mlc.fusion import Match, Search, array_of, is_standard
from mlc.graph_pass import Exactness
from passes._affine import index_of_input, reason_to_stay, scale_and_shift
from passes._convolution import Convolution

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FoldPreNorm(Search):
    """``conv(x * s + t, w) + b`` becomes ``conv(x, w * s) + (b + sum(w * t))``, one operator less.

    s and t run along the input channels: those of a batch normalization in inference, or the constant of a Mul, Div,
    Add or Sub. Refuses a shift other than 0 where the convolution pads, since its zeros come after the shift; where
    the value between is used elsewhere or is an output of the graph; where the weight is used elsewhere, so that it
    would be kept twice; where a weight or statistic is not constant, has another dtype or another length, and where
    the number of channels of x is not known, which may be broadcast.
    """

    name: ClassVar[str] = "fold-pre-norm"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    ends: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def look(self, node: ir.Node) -> Match | None:
        before = node.inputs[0].producer() if node.inputs[0] is not None else None
        index = index_of_input(before) if before is not None and is_standard(before) else None
        if before is None or index is None:
            return None
        return Match([before, node], node.outputs[:1], {"before": before, "index": index, "layer": Convolution(node)})

    def check(self, before, index, layer) -> str | None:
        reason: str | None = layer.reason_to_stay()
        if reason is None and len(layer.weight.uses()) > 1:
            reason = "the weight is used elsewhere"
        if reason is not None:
            return reason
        channels = array_of(layer.weight).shape[1] * layer.groups
        x, rank = before.inputs[index], len(layer.weight.const_value.shape)
        if before.op_type != "BatchNormalization" and (
            x.shape is None or len(x.shape) != rank or x.shape[1] != channels
        ):
            return "the number of channels of the input is not known"
        reason = reason_to_stay(before, index, layer.weight, channels)
        if reason is None and _pads(layer.node) and scale_and_shift(before, index, channels)[1].any():
            reason = "the convolution pads with zeros, which are not shifted"
        return reason

    def rewrite(self, op, before, index, layer):
        kernels = layer.kernels()
        groups, _, channels, *size = kernels.shape
        scale, shift = (each.reshape(groups, channels, 1) for each in scale_and_shift(before, index, groups * channels))
        added = kernels.reshape(*kernels.shape[:3], -1).sum(-1) @ shift
        offset = layer.offset() + added.reshape(-1) if layer.bias is not None or shift.any() else None
        return layer.written(
            op, before.inputs[index], kernels * scale.reshape(groups, 1, channels, *(1 for _ in size)), offset
        )


def _pads(node: ir.Node) -> bool:
    pads, way = node.attributes.get("pads"), node.attributes.get("auto_pad")
    return (pads is not None and any(pads.as_ints())) or (way is not None and way.as_string().startswith("SAME"))
