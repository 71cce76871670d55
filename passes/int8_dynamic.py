"""Dynamic int8: activations are quantized as they come, with a scale for what is there; plain, it needs no data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from mlc.formats import LARGE_TABLE, MATRIX_PRODUCTS
from mlc.fusion import Places, is_constant
from mlc.graph_pass import Change, Context, Exactness, Pass, Refusal, Statistics
from mlc.types import FLOAT, Need, NodePlan
from passes._dynamic import Looked, look_at, weights_of
from passes._dynamic_lstm import OPERATOR, SMALL, write_lstms
from passes._dynamic_write import DynamicWriter
from passes._kernels import DOMAIN
from passes._qdq import Writer
from passes._smooth import Smoothed, few_rows, note_of, range_needs, read_together, smooth
from passes._stored import permitted

LSTM_KERNEL = f"{DOMAIN}.{OPERATOR}"

WHOLE_BATCH = (
    "the scale of an activation is that of all rows that are run together, so the result of a row depends on the rows "
    "beside it"
)


@dataclass(frozen=True)
class Int8Dynamic(Pass):
    """``x @ w + b`` becomes ``float(q @ code) * (x_scale * w_scale) + b``, with ``q``, ``x_scale`` found as x comes.

    MatMul and Gemm with constant weights, in branches and bodies of loops too: unsigned bytes for x, by
    DynamicQuantizeLinear over the whole of it; signed bytes for w with a scale for each column, safe from saturation
    where the target may add two products in 16 bits. onnxruntime joins the written nodes to one. Large tables of a
    Gather, and those that share the weight of a product, have a scale for each row. An LSTM becomes onnxruntime's
    DynamicQuantizeLSTM where the target has it and the output need not be portable; its recurrence weight has one scale
    for each direction where the columns are alike, which is faster.

    Refuses, and keeps float: convolutions, which would be slower; GRU and RNN; products of two activations, and of what
    holds a mask in the inputs it is judged on, or in calibration data where another pass takes these: its scale is that
    of the mask. A NaN in x is lost, as DynamicQuantizeLinear has no code for it; an Inf makes NaN of every row.

    ``smallest_table`` is the number of elements from which on a table is large: a small one saves nothing worth two
    lookups in the place of one. ``smooth`` scales the columns of what products read, and the rows of their weights
    back, where that loses less, by a multiplication before the quantizer (Xiao et al. 2022, arXiv:2211.10438,
    equation 3); it needs calibration data, which nothing else here does.
    """

    name: ClassVar[str] = "int8-dynamic"
    exactness: ClassVar[Exactness] = Exactness.LOSSY
    min_opset: ClassVar[int] = 11
    may_use_kernels: ClassVar[Mapping[str, str]] = {LSTM_KERNEL: SMALL}

    smallest_table: int = LARGE_TABLE
    smooth: bool = False

    def __post_init__(self) -> None:
        if self.smallest_table < 0:
            raise ValueError(f"smallest_table is a number of elements, {self.smallest_table} is none")

    def plan(self, model: ir.Model, ctx: Context) -> tuple[NodePlan, ...]:
        """Return the choice for every node that was looked at, with its reason."""
        weights = "weights safe from saturation" if ctx.capabilities.saturates else "weights of full 8 bits"

        def entry(looked: Looked) -> NodePlan:
            if looked.reason:
                return NodePlan(looked.site, looked.node.op_type, FLOAT, looked.reason)
            reason = "a large or shared table" if looked.node.op_type == "Gather" else f"constant weight, {weights}"
            return NodePlan(looked.site, looked.node.op_type, self.name, reason)

        return tuple(map(entry, self.looked(model, ctx, ctx.allow)))

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Quantize what the plan says (everything that can be, without a plan)."""
        looked = self.looked(model, ctx, permitted(ctx, self.name))
        places = Places(model)
        masks = _masks(_activations(looked, places), ctx.statistics)
        looked = [replace(each, reason=masks.get(each.node, each.reason)) for each in looked]
        chosen = [each.node for each in looked if not each.reason]
        refused = tuple(Refusal(each.site, each.reason) for each in looked if each.reason)
        sites = tuple(each.site for each in looked if not each.reason)
        adds_up = any(node.op_type != "Gather" for node in chosen)
        writer, saturates = DynamicWriter(model), ctx.capabilities.saturates
        few = few_rows(_activations(looked, places), places, ctx) if self.smooth else ()
        smoothed = list(_smoothed(writer, chosen, places, ctx)) if self.smooth else []
        for weight in weights_of(chosen):
            writer.write(weight, saturates=saturates)
        write_lstms(writer, (node for node in chosen if node.op_type == "LSTM"), saturates=saturates)
        notes = tuple(f"{mask} What reads it stays float" for mask in dict.fromkeys(masks.values()))
        return Change(sites, refused, ((WHOLE_BATCH,) if adds_up else ()) + notes + few + note_of(smoothed))

    @property
    def calibrates(self) -> bool:
        """Whether it reads ranges of columns, which only data tells."""
        return self.smooth

    def needs(self, model: ir.Model) -> tuple[Need, ...]:
        """Ask for the extremes of each column of what products read, if these are to be scaled, beside ``likes``."""
        if not self.smooth:
            return ()
        places = Places(model)
        return (*self.likes(model), *range_needs(self._reads(model, places), places))

    def likes(self, model: ir.Model) -> tuple[Need, ...]:
        """Ask for the histogram of what each product reads: beside a mask all else would be one code."""
        return tuple(Need(name, "histogram") for name in dict.fromkeys(self._reads(model, Places(model)).values()))

    def _reads(self, model: ir.Model, places: Places) -> dict[ir.Node, str]:
        """Return what each product reads that could be quantized, by its name."""
        looked = look_at(model, lambda _site: True, recurrent=True, smallest_table=self.smallest_table)
        return _activations(looked, places)

    def looked(self, model: ir.Model, ctx: Context, free: Callable[[str], bool]) -> list[Looked]:
        """Return the nodes that have an integer form here, or stay float for a reason; ``free(site)`` allows one."""
        recurrent = LSTM_KERNEL in ctx.capabilities.kernels
        return look_at(model, free, recurrent=recurrent, smallest_table=self.smallest_table)


def _activations(looked: list[Looked], places: Places) -> dict[ir.Node, str]:
    """Return what each product that is to be quantized reads, by its name; in loops it cannot be known."""
    read = ((each.node, each.node.inputs[0]) for each in looked if not each.reason and each.node.op_type != "Gather")
    return {
        node: places.name(value)
        for node, value in read
        if value is not None and value.graph in places.once and not is_constant(value)
    }


def _smoothed(writer: Writer, chosen: Iterable[ir.Node], places: Places, ctx: Context) -> Iterator[Smoothed]:
    """Scale the columns of what products read, graph by graph; in loops nothing is known of them."""
    products = [node for node in chosen if node.op_type in MATRIX_PRODUCTS]
    for graph in places.once:
        read = ((node, node.inputs[0]) for node in products if node.graph is graph)
        groups = {value: nodes for value, nodes in read_together(read).items() if value.graph in places.once}
        yield from (one for _, one in smooth(writer.inside(graph), groups, places, ctx))


def _masks(activations: Mapping[ir.Node, str], statistics: Statistics | None) -> dict[ir.Node, str]:
    """Return why products stay float that read a value that holds a mask; each reads one by its name."""
    if statistics is None:
        return {}
    masks = {node: (name, statistics.mask(name)) for node, name in activations.items()}
    return {node: f"the value {name} holds {mask[0]:.4g}: a mask?" for node, (name, mask) in masks.items() if mask}
