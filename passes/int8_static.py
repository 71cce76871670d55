"""Static int8, written as standard QuantizeLinear and DequantizeLinear.

Activations are unsigned bytes by tensor, weights signed bytes by output channel, both with scales fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from mlc.formats import (
    INT8_STATIC,
    KEPT_BY_PLAN,
    WEIGHTED,
    Affine,
    activation_parameters,
    int8_nodes,
    site_of,
    static_choices,
)
from mlc.fusion import walk
from mlc.graph_pass import Change, Context, Exactness, Need, Pass, Refusal
from passes._codes import Coded, coded_values, possible_values
from passes._kept_float import keep_float
from passes._qdq import Shared, Writer, is_fold, write_activations
from passes._weights import stored_weights, write_weights

INSIDE = "branches and bodies of loops stay float"

LEAST_PERCENT, PERCENT, WHOLE = 50, 99.999, 100


@dataclass(frozen=True)
class Int8Static(Pass):
    """``y = f(x, w)`` becomes ``y = f(x', w')``, with ``v' = scale * (clip(rint(v / scale) + zero) - zero)``.

    Conv, MatMul and Gemm with constant weights, and what stands between them and has an integer kernel: additions,
    concatenations, pooling, shapes. A Relu or Clip before a quantizer is folded into it, which cuts at the same place.
    Weights are safe from saturation where the target may add two products in 16 bits; biases are 32-bit integers with
    the scale ``x_scale * weight_scale``. Refuses, and keeps float: attention products, masks, softmax, normalizations,
    and whatever would need a conversion on both sides.

    ``method`` says where the range of an activation ends: at its extremes, or where ``percent`` of its elements lie
    inside.
    """

    name: ClassVar[str] = INT8_STATIC
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 13

    method: Literal["min-max", "percentile"] = "min-max"
    percent: float = PERCENT

    def __post_init__(self) -> None:
        if self.method not in ("min-max", "percentile"):
            raise ValueError(f"method is min-max or percentile, not {self.method}")
        if self.method == "min-max" and self.percent != PERCENT:
            raise ValueError("percent belongs to method=percentile")
        if not LEAST_PERCENT < self.percent <= WHOLE:
            raise ValueError(f"percent lies above {LEAST_PERCENT} and up to {WHOLE}, {self.percent:g} does not")

    def needs(self, model: ir.Model) -> tuple[Need, ...]:
        """Ask for the range of each value that gives a scale, or would if a plan kept some of the nodes float."""
        kind = "range" if self.method == "min-max" else "histogram"
        return tuple(Need(value.name or "", kind) for value in possible_values(static_choices(model)))

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Quantize what the plan says (everything that pays, without a plan), on the statistics of ``needs``."""
        choices = static_choices(model, _permitted(ctx))
        coded = coded_values(choices)
        sites = tuple(choice.site for choice in choices if choice.int8)
        refused = tuple(
            Refusal(choice.site, choice.reason)
            for choice in choices
            if choice.refused and choice.reason != KEPT_BY_PLAN
        )
        refused += tuple(Refusal(site, INSIDE) for site in _inside(model))
        if not sites:
            return Change((), refused)
        parameters = self.parameters(coded, ctx)
        nodes = list(int8_nodes(choices))
        writer = Writer(model)
        weights = stored_weights(nodes, parameters)
        write_activations(writer, nodes, coded, parameters)
        write_weights(writer, weights, saturates=ctx.capabilities.saturates)
        keep_float(writer, set(nodes))
        return Change(sites, refused)

    def parameters(self, coded: Mapping[ir.Value, Coded], ctx: Context) -> dict[ir.Value, Shared]:
        """Return scale and zero point of each value to quantize."""
        ranges = {value: Shared(value, self.affine(value.name or "", ctx)) for value in _ranges(coded)}
        found = {value: ranges[item.range_of] for value, item in coded.items()}
        for value, item in coded.items():
            if item.adopts is not None and (found[item.adopts].affine.zero_point == 0 or not is_fold(value.producer())):
                found[value] = found[item.adopts]
        return found

    def affine(self, value: str, ctx: Context) -> Affine:
        """Return scale and zero point for the collected range of one value."""
        if ctx.statistics is None:
            raise ValueError("int8-static reads statistics, and none were collected: give calibration data")
        if self.method == "percentile":
            low, high = ctx.statistics.percentile(value, self.percent)
        else:
            low, high = ctx.statistics.range(value)
        return activation_parameters(low, high, value)


def _permitted(ctx: Context) -> Callable[[str], bool]:
    planned = ctx.plan.nodes
    wanted = {entry.node for entry in planned if entry.format == INT8_STATIC}
    return lambda site: (not planned or site in wanted) and ctx.allow(site)


def _inside(model: ir.Model) -> Iterator[str]:
    """Yield the sites of products in branches and bodies of loops."""
    for prefix, graph in walk(model):
        yield from (f"{prefix}{site_of(node)}" for node in graph if prefix and node.op_type in WEIGHTED)


def _ranges(coded: Mapping[ir.Value, Coded]) -> list[ir.Value]:
    """Return the values whose ranges are read, each once, in order."""
    return list(dict.fromkeys(item.range_of for item in coded.values()))
