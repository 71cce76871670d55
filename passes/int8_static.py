"""Static int8, written as standard QuantizeLinear and DequantizeLinear.

Activations are unsigned bytes by tensor, weights signed bytes by output channel, both with scales fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from mlc.formats import (
    INT8_STATIC,
    KEPT_BY_PLAN,
    WEIGHTED,
    Affine,
    Choice,
    activation_parameters,
    int8_nodes,
    static_choices,
)
from mlc.fusion import Places, is_standard
from mlc.graph_pass import Change, Context, Exactness, Need, Pass, Refusal
from mlc.types import FLOAT, NodePlan
from passes._all_axes import all_axes
from passes._codes import Coded, possible_values
from passes._correct_bias import mean_needs, means_of
from passes._kept_float import keep_float
from passes._masked import Unmasked, unmasked
from passes._qdq import Shared, Writer, clamps_alike, write_activations
from passes._smooth import Smoothed, coded_alone, few_rows, note_of, range_needs, smooth
from passes._stored import permitted
from passes._weights import stored_weights, write_weights

IN_LOOP = "it is in a loop, and the ranges of what comes about there are not collected"

METHODS = ("min-max", "percentile", "mse", "entropy")

LEAST_PERCENT, PERCENT, WHOLE = 50, 99.999, 100


@dataclass(frozen=True)
class Int8Static(Pass):
    """``y = f(x, w)`` becomes ``y = f(x', w')``, with ``v' = scale * (clip(rint(v / scale) + zero) - zero)``.

    Conv, MatMul and Gemm with constant weights, and what stands between them and has an integer kernel: additions,
    concatenations, pooling, shapes. A Relu or Clip before a quantizer is folded into it, which cuts at the same place.
    Large tables of a Gather, and those that share the weight of a product, have a scale for each row. Weights are safe
    from saturation where the target may add two products in 16 bits; biases are 32-bit integers with
    the scale ``x_scale * weight_scale``. Branches are quantized each by itself, and a weight is stored once for all
    graphs. Refuses, and keeps float: attention products, masks, softmax, normalizations, whatever would need a
    conversion on both sides, and products of which no range is known, in loops and in branches that no sample takes.

    ``method`` says where the range of an activation ends: at its extremes (``min-max``), where ``percent`` of its
    elements lie inside (``percentile``), where the expected squared error of the codes is least (``mse``, Banner et al.
    2019), or their divergence from the distribution (``entropy``, Migacz 2017). All read the same statistics. What
    reads or computes a value with a mask, huge beside all others, stays float. ``correct_bias`` takes from each bias
    what the rounding of its layer's weights adds on average (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
    ``smooth`` scales the columns of what matrix products read, and the rows of their weights back, where that loses
    less, by a multiplication before the quantizer (Xiao et al. 2022, arXiv:2211.10438, equation 3).
    """

    name: ClassVar[str] = INT8_STATIC
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 13

    method: Literal["min-max", "percentile", "mse", "entropy"] = "min-max"
    percent: float = PERCENT
    correct_bias: bool = False
    smooth: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {', '.join(METHODS[:-1])} or {METHODS[-1]}, not {self.method}")
        if self.method != "percentile" and self.percent != PERCENT:
            raise ValueError("percent belongs to method=percentile")
        if self.smooth and self.method != "min-max":
            raise ValueError("smooth belongs to method=min-max: of columns the extremes alone are known")
        if not LEAST_PERCENT < self.percent <= WHOLE:
            raise ValueError(f"percent lies above {LEAST_PERCENT} and up to {WHOLE}, {self.percent:g} does not")

    def needs(self, model: ir.Model) -> tuple[Need, ...]:
        """Ask for the histogram of each value that gives a scale, or would if a plan kept some of the nodes float.

        It is the same for all options, so that one collection serves them all.
        """
        places = Places(model)
        choices = static_choices(places.once)
        nodes = [choice.node for choice in choices]
        by_column = (*mean_needs(nodes, places), *range_needs(nodes, places))
        return (*(Need(places.name(value), "histogram") for value in possible_values(choices)), *by_column)

    def plan(self, model: ir.Model, ctx: Context) -> tuple[NodePlan, ...]:
        """Return the choice for every node, with its reason; of loops those with weights."""
        weights = "weights safe from saturation" if ctx.capabilities.saturates else "weights of full 8 bits"
        places = Places(model)

        def entry(choice: Choice) -> NodePlan:
            site, op = places.site(choice.node), choice.node.op_type
            if not choice.int8:
                return NodePlan(site, op, FLOAT, choice.reason)
            return NodePlan(site, op, self.name, f"{choice.reason}, {weights}" if choice.weighted else choice.reason)

        choices = static_choices(places.once, lambda node: ctx.allow(places.site(node)))
        looped = (NodePlan(places.site(node), node.op_type, FLOAT, IN_LOOP) for node in _in_loops(places))
        return (*map(entry, choices), *looped)

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Quantize what the plan says (everything that pays, without a plan), on the statistics of ``needs``."""
        found = unmasked(model, permitted(ctx, self.name), ctx.statistics)
        site = found.places.site
        nodes = list(int8_nodes(found.choices))
        refused = tuple(
            Refusal(site(choice.node), choice.reason)
            for choice in found.choices
            if choice.refused and choice.reason != KEPT_BY_PLAN
        )
        refused += tuple(Refusal(*pair) for pair in found.reasons.items())
        refused += tuple(Refusal(site(node), IN_LOOP) for node in _in_loops(found.places))
        masks = dict.fromkeys(found.reasons.values())
        notes = tuple(f"{mask} What reads or computes it stays float" for mask in masks)
        if not nodes:
            return Change((), refused, notes)
        sites = tuple(map(site, nodes))
        few = few_rows(nodes, found.places, ctx) if self.smooth else ()
        scaled = self.write(Writer(model), nodes, found, ctx)
        return Change(sites, refused, (*notes, *few, *note_of(scaled)))

    def write(self, writer: Writer, nodes: list[ir.Node], found: Unmasked, ctx: Context) -> list[Smoothed]:
        """Quantize nodes, inner graphs first: their quantizers read what is around them, whatever becomes of that.

        Returns the values whose columns were scaled.
        """
        places = found.places
        parameters = {graph: self.parameters(coded, places, ctx) for graph, coded in found.coded.items()}
        means = dict(means_of(nodes, places, ctx)) if self.correct_bias else {}
        scaled: list[Smoothed] = []
        for graph, coded in found.coded.items() if self.smooth else ():
            groups = coded_alone((node for node in nodes if node.graph is graph), coded)
            for value, one in smooth(writer.inside(graph), groups, places, ctx):
                _code_in_its_place(coded, parameters[graph], value, one)
                means |= {node: means[node] / one.scales for node in one.products if node in means}
                scaled.append(one)
        for graph in found.coded if any("Conv" in node.op_type for node in nodes) else ():
            all_axes(writer.inside(graph))
        weights = stored_weights(nodes, parameters, means)
        for graph, coded in reversed(found.coded.items()):
            own = [node for node in nodes if node.graph is graph]
            write_activations(writer.inside(graph), own, coded, parameters[graph])
        write_weights(writer, weights, places, saturates=ctx.capabilities.saturates)
        for graph in found.coded:
            keep_float(writer.inside(graph), set(nodes))
        return scaled

    def parameters(self, coded: Mapping[ir.Value, Coded], places: Places, ctx: Context) -> dict[ir.Value, Shared]:
        """Return scale and zero point of each value to quantize."""
        ranges = {value: Shared(value, self.affine(places.name(value), ctx)) for value in _ranges(coded)}
        found = {value: ranges[item.range_of] for value, item in coded.items()}
        for value, item in coded.items():
            if item.adopts is not None and clamps_alike(value, found[item.adopts].affine):
                found[value] = found[item.adopts]
        return found

    def affine(self, value: str, ctx: Context) -> Affine:
        """Return scale and zero point for the collected range of one value."""
        if ctx.statistics is None:
            raise ValueError("int8-static reads statistics, and none were collected: give calibration data")
        if self.method == "percentile":
            low, high = ctx.statistics.percentile(value, self.percent)
        elif self.method == "mse":
            low, high = ctx.statistics.mse(value)
        elif self.method == "entropy":
            low, high = ctx.statistics.entropy(value)
        else:
            low, high = ctx.statistics.range(value)
        return activation_parameters(low, high, value)


def _code_in_its_place(
    coded: dict[ir.Value, Coded], parameters: dict[ir.Value, Shared], value: ir.Value, scaled: Smoothed
) -> None:
    """Let a value whose columns are scaled become codes, and not the one that it was made of."""
    del coded[value], parameters[value]
    coded[scaled.value] = Coded(scaled.value, native=False, range_of=scaled.value)
    parameters[scaled.value] = Shared(scaled.value, activation_parameters(*scaled.range, str(scaled.value.name)))


def _in_loops(places: Places) -> list[ir.Node]:
    """Return the products in bodies of loops."""
    once = places.once
    return [
        node for node in places.nodes() if node.op_type in WEIGHTED and is_standard(node) and node.graph not in once
    ]


def _ranges(coded: Mapping[ir.Value, Coded]) -> list[ir.Value]:
    """Return the values whose ranges are read, each once, in order."""
    return list(dict.fromkeys(item.range_of for item in coded.values()))
