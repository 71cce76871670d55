"""Move what is hard to quantize from activations into weights, before they are quantized."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx_ir as ir

from mlc.formats import MATRIX_PRODUCTS, constant_obstacle, number, site_of, weight_obstacle, weight_of
from mlc.fusion import is_standard
from mlc.graph_pass import Change, Context, Exactness, Need, Pass, Refusal
from passes._masked import UNSEEN
from passes._norms import fits_last
from passes._qdq import Writer
from passes._smooth import is_shared, multiply_rows, rows_of, scales_for
from passes._stored import array_of

if TYPE_CHECKING:
    from mlc.types import Array

NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")

NEAR = 0.01
"""Scales that are all so near to 1 are left out."""


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """``norm(x) * g @ w`` becomes ``norm(x) * (g / s) @ (s * w)``, so that no column of the activations is far larger.

    G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2022
    (arXiv:2211.10438), equations (3) and (4): ``s = max|x|**alpha / max|w|**(1 - alpha)`` for each column of x and row
    of w, the largest of all products that read it. It is the same function, and pays where a pass behind it quantizes
    activations by tensor.

    A scale s divides the scale and the bias of the LayerNormalization or RMSNormalization before the products, which
    are MatMul or Gemm in the main graph. Refuses where anything else reads what is normalized, where scale, bias or
    weights are not constant or are used elsewhere, and where the normalization is not over the last axis.
    """

    name: ClassVar[str] = "smooth-quant"
    exactness: ClassVar[Exactness] = Exactness.REASSOCIATES
    tolerance: ClassVar[float] = 1e-4
    min_opset: ClassVar[int] = 17

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha lies from 0 to 1, {self.alpha:g} does not")

    def needs(self, model: ir.Model) -> tuple[Need, ...]:
        """Ask for the extremes of each column of what products read."""
        return tuple(Need(site_of(group.norm), "column-range") for group in _groups(model) if not group.obstacle)

    def apply(self, model: ir.Model, ctx: Context) -> Change:
        """Scale each normalization that products alone read, and their weights."""
        writer = Writer(model)
        sites: list[str] = []
        refused: list[Refusal] = []
        for group in list(_groups(model)):
            reason = group.obstacle or _unseen(group, ctx)
            scales = np.ones(0) if reason else self.scales(group, ctx)
            if not reason and np.abs(scales - 1).max() < NEAR:
                reason = "its columns and the rows of the weights are balanced"
            if reason:
                refused.append(Refusal(site_of(group.norm), reason))
            elif all(ctx.allow(site) for site in group.sites):
                _rescale(writer, group, scales)
                sites += group.sites
        return Change(tuple(sites), tuple(refused))

    def scales(self, group: Group, ctx: Context) -> Array:
        """Return s, float64 [columns]; 1 where a column or all of its weights are 0."""
        if ctx.statistics is None:
            raise ValueError("smooth-quant reads statistics, and none were collected: give calibration data")
        low, high = (each.astype(np.float64) for each in ctx.statistics.column_range(site_of(group.norm)))
        weights = np.max([np.abs(rows_of(product)).max(axis=1) for product in group.products], axis=0)
        return scales_for(np.maximum(-low, high), weights, self.alpha)


def _unseen(group: Group, ctx: Context) -> str:
    unseen = ctx.statistics is not None and not ctx.statistics.seen(site_of(group.norm))
    return UNSEEN if unseen else ""


@dataclass
class Group:
    """A normalization, the products that read it, and why they are left alone, if they are."""

    norm: ir.Node
    products: list[ir.Node] = field(default_factory=list)
    obstacle: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        """The products, whose results stay what they are."""
        return tuple(site_of(product) for product in self.products)


def _groups(model: ir.Model) -> Iterator[Group]:
    """Yield the normalizations of the main graph that any product reads."""
    for node in model.graph:
        if node.op_type in NORMALIZATIONS and is_standard(node):
            uses = node.outputs[0].uses()
            readers = dict.fromkeys(user for user, index in uses if _multiplies(user, index, node))
            if readers:
                yield Group(node, list(readers), _obstacle(node, list(readers)))


def _multiplies(node: ir.Node, index: int, norm: ir.Node) -> bool:
    return node.op_type in MATRIX_PRODUCTS and is_standard(node) and index == 0 and node.graph is norm.graph


def _obstacle(norm: ir.Node, products: list[ir.Node]) -> str:
    """Return why a normalization and its products are left alone, or nothing."""
    output, x = norm.outputs[0], norm.inputs[0]
    if output.is_graph_output():
        return "it is a graph output"
    if any(not _multiplies(user, index, norm) for user, index in output.uses()):
        return "it is used by more than products"
    if x is None or x.shape is None or number(norm, "axis", -1) not in (-1, x.shape.rank() - 1):
        return "it is not known to be over the last axis alone"
    for role, value in zip(("scale", "bias"), norm.inputs[1:], strict=False):
        if value is None:
            continue
        problem = constant_obstacle(value, role)
        if problem or not fits_last(value, x):
            return problem or f"its {role} does not have one element for each of the last axis"
    return next((reason for product in products if (reason := _product_obstacle(product))), "")


def _product_obstacle(product: ir.Node) -> str:
    reason, weight = weight_obstacle(product), weight_of(product)
    if reason or weight is None:
        return f"{site_of(product)}: {reason}"
    return f"{site_of(product)}: its weight is used elsewhere" if is_shared(weight) else ""


def _rescale(writer: Writer, group: Group, scales: Array) -> None:
    """Divide what the normalization multiplies with and adds, and multiply the rows of the weights."""
    for index in range(1, len(group.norm.inputs)):
        if group.norm.inputs[index] is not None:
            writer.reweigh(group.norm, index, array_of(group.norm.inputs[index]) / scales, "smooth")
    for product in group.products:
        multiply_rows(writer, product, scales)
    output = group.norm.outputs[0]
    output.name = writer.names.free(f"{output.name}.smooth")  # its numbers are others now
