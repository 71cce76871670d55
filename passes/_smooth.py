"""Activations whose columns are scaled before they are quantized, where the codes then lose less.

``x @ w`` is ``(x / s) @ (s * w)``: no column of the left side need be far larger than the others, so that one scale
fits them all. G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language
Models", 2022 (arXiv:2211.10438), equations (3) and (4). How much is moved is not one number for a model here: of
several, each value gets the one by which the rounding of activations and weights is expected to cost its products
least.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.formats import MATRIX_PRODUCTS, Weight, number, weight_obstacle, weight_of
from mlc.fusion import Places
from mlc.graph_pass import Context, Need
from passes._codes import Coded
from passes._stored import array_of

if TYPE_CHECKING:
    from mlc.types import Array
    from passes._qdq import Writer

MATRIX = 2

ALPHAS = tuple(step / 10 for step in range(1, 8))
"""The shares of what is hard to quantize that are tried: the larger, the more hangs on the extreme of each column."""

LEAST_ROWS = 256
"""Of so many rows the extremes of columns are known: of fewer, other data leaves them too far for what they bring."""

WORTH = 0.5
"""A value is scaled where no more than so much of the expected squared error is left: a multiplication costs time."""

CODES, WEIGHT_CODES = 255, 127
"""How many steps the range of an activation has, and how many lie between 0 and the largest weight of a column."""

LARGEST = 1e37
"""What scaled activations, scaled weights and scales stay below: float32 goes ten times as far."""

PEAK = 4.0
"""The extreme of a column over its root mean square, as some ten thousand normally distributed numbers have it."""


@dataclass(frozen=True)
class Smoothed:
    """A value with scaled columns: the products that read it, their sites, scales s, float64 [columns], and range."""

    value: ir.Value
    products: tuple[ir.Node, ...]
    sites: tuple[str, ...]
    scales: Array
    range: tuple[float, float]


def range_needs(nodes: Iterable[ir.Node], places: Places) -> tuple[Need, ...]:
    """Ask for the extremes of each column of what matrix products with a weight that can be integers read."""
    read = dict.fromkeys(x for node in nodes if _fits(node) and (x := node.inputs[0]) is not None)
    return tuple(Need(places.name(value), "column-range") for value in read)


def smooth(
    writer: Writer, groups: Mapping[ir.Value, list[ir.Node]], places: Places, ctx: Context
) -> Iterator[tuple[ir.Value, Smoothed]]:
    """Scale the columns of each value for the products of one graph that read it, where that pays.

    A multiplication comes between the value and its products, whose weights are written anew. Yields the value as it
    was, too.
    """
    for value, products in groups.items():
        if ctx.statistics is None:
            raise ValueError("smooth=true reads statistics, and none were collected: give calibration data")
        if not ctx.statistics.seen(places.name(value)) or ctx.statistics.rows(places.name(value)) < LEAST_ROWS:
            continue
        low, high = (each.astype(np.float64) for each in ctx.statistics.column_range(places.name(value)))
        scales = least_noise(low, high, [rows_of(product) for product in products])
        if scales is None:
            continue
        inverse = writer.constant(f"{value.name}.inverse", (1 / scales).astype(np.float32))
        node = writer.node("Mul", [value, inverse], f"{value.name}.smooth", ir.DataType.FLOAT, value.shape)
        writer.insert_behind(value, [node])
        for product in products:
            product.replace_input_with(0, node.outputs[0])
            multiply_rows(writer, product, scales)
        ends = float((low / scales).min()), float((high / scales).max())
        yield value, Smoothed(node.outputs[0], tuple(products), tuple(map(places.site, products)), scales, ends)


def note_of(smoothed: Iterable[Smoothed]) -> tuple[str, ...]:
    """Say which products read values whose columns were scaled."""
    named = ", ".join(site for one in smoothed for site in one.sites)
    return (f"the columns of what they read are scaled before these products: {named}",) if named else ()


def few_rows(nodes: Iterable[ir.Node], places: Places, ctx: Context) -> tuple[str, ...]:
    """Say that no columns are scaled since too few rows tell their extremes, where that holds for all products."""
    known, names = ctx.statistics, [need.value for need in range_needs(nodes, places)]
    seen = [known.rows(name) for name in names if known is not None and known.seen(name)]
    if not seen or max(seen) >= LEAST_ROWS:
        return ()
    return (f"no columns are scaled before products: {max(seen)} rows calibrate, {LEAST_ROWS} tell how far they reach",)


def coded_alone(nodes: Iterable[ir.Node], coded: Mapping[ir.Value, Coded]) -> dict[ir.Value, list[ir.Node]]:
    """Return products by the value that they read, where it becomes codes for them alone, not by an integer node."""
    shared = {item.range_of for item in coded.values() if item.range_of is not item.value}
    own = {value for value, item in coded.items() if not item.native and item.range_of is value}
    read = ((node, value) for node in nodes for value in dict.fromkeys(node.inputs) if value in coded)
    groups = read_together(read)
    return {value: products for value, products in groups.items() if value in own and value not in shared}


def read_together(read: Iterable[tuple[ir.Node, ir.Value | None]]) -> dict[ir.Value, list[ir.Node]]:
    """Return nodes by the value that they read, where all of them are products with a matrix of their own."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node, value in read:
        if value is not None:
            found.setdefault(value, []).append(node)
    return {
        value: nodes for value, nodes in found.items() if all(_fits(node) and node.inputs[0] is value for node in nodes)
    }


def scales_for(activations: Array, weights: Array, alpha: float) -> Array:
    """Return ``max|x|**alpha / max|w|**(1 - alpha)``, float64 [columns]; 1 where a column or its weights are all 0."""
    used = (activations > 0) & (weights > 0)
    activations, weights = np.where(used, activations, 1), np.where(used, weights, 1)
    found: Array = activations**alpha / weights ** (1 - alpha)
    return found


def least_noise(low: Array, high: Array, weights: list[Array]) -> Array | None:
    """Return the scales, float64 [columns], of the least expected error, or None where none is worth it.

    ``low`` and ``high`` are the extremes of each column, ``weights`` [columns, outputs] of all products that read it.
    A column below the median of all is expected to come as far as that: what was seldom seen, or never, is not made
    large. The median of the scales is 1, so that the numbers stay of their size.
    """
    peaks = np.maximum(-low, high)
    largest = np.max([np.abs(weight).max(axis=1, initial=0) for weight in weights], axis=0)
    usual = np.median(peaks)
    if not (usual > 0 and largest.any()):
        return None
    low, high = _reaching(low, high, usual)
    peaks, largest = np.maximum(peaks, usual), np.maximum(largest, largest[largest > 0].min())
    plain = _noise(low, high, weights, np.ones(len(low)))
    tried = [scales / np.median(scales) for scales in (scales_for(peaks, largest, alpha) for alpha in ALPHAS)]
    noises = [_noise(low, high, weights, scales) for scales in tried]
    best = int(np.argmin(noises))
    return tried[best] if noises[best] <= WORTH * plain else None


def rows_of(product: ir.Node) -> Array:
    """Return the weight of a product, float64 [rows, columns]."""
    wide = array_of(product.inputs[1]).astype(np.float64)
    return wide.T if number(product, "transB", 0) else wide


def is_shared(weight: Weight) -> bool:
    """Whether anything else may read a weight, so that its product cannot have another one in its place."""
    return weight.transposed or len(weight.value.uses()) > 1 or weight.value.is_graph_output()


def multiply_rows(writer: Writer, product: ir.Node, scales: Array) -> None:
    """Let a product multiply with a weight whose rows are scaled, float64 [rows]."""
    scaled = rows_of(product) * scales[:, np.newaxis]
    writer.reweigh(product, 1, scaled.T if number(product, "transB", 0) else scaled, "smooth")


def _reaching(low: Array, high: Array, least: float) -> tuple[Array, Array]:
    """Return the extremes of columns, made larger where they stay below a number; a column of zeros rises to it."""
    peaks = np.maximum(-low, high)
    factors = np.maximum(least / np.where(peaks > 0, peaks, least), 1)
    return low * factors, np.where(peaks > 0, high * factors, least)


def _noise(low: Array, high: Array, weights: list[Array], scales: Array) -> float:
    """Return the expected squared error over all outputs: a step that is rounded has a twelfth of its square.

    It is infinite where float32 has no such numbers.
    """
    left = low / scales, high / scales
    if max(*map(np.max, np.abs(left)), scales.max(), (1 / scales).max()) > LARGEST:
        return np.inf
    step = (max(left[1].max(), 0) - min(left[0].min(), 0)) / CODES
    power = np.square(np.maximum(-left[0], left[1]) / PEAK).sum()
    noise = 0.0
    for weight in weights:
        scaled = weight * scales[:, np.newaxis]
        steps = np.maximum(scaled.max(axis=0), -scaled.min(axis=0)) / WEIGHT_CODES
        if steps.max(initial=0) * WEIGHT_CODES > LARGEST:
            return np.inf
        noise += float(step**2 * np.vdot(scaled, scaled) + power * np.square(steps).sum())
    return noise / 12


def _fits(node: ir.Node) -> bool:
    """Whether a node is a product of activations with a matrix of its own."""
    if node.op_type not in MATRIX_PRODUCTS or weight_obstacle(node) or number(node, "transA", 0):
        return False
    weight = weight_of(node)
    return weight is not None and not is_shared(weight) and array_of(weight.value).ndim == MATRIX
