"""Normalizations over the last axis that are written in another way than they are found by, and what is another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from mlc.fusion import is_constant, is_standard, only_reader, producer, product_of
from passes._norms import MEAN, NOT_LAST, fits_last, over_last, squared_in

NO_WEIGHT = "it is not multiplied with one weight alone"

NORM = "it is divided by the norm, and not by the root of a mean of squares"

SUM = "the squares are summed, and not their mean taken"

CAST = "another type is computed in on the way"

REDUCTIONS = frozenset({MEAN, "ReduceL2", "ReduceSum", "ReduceSumSquare"})

SCALING = frozenset({"Div", "Mul"})

STEPS = frozenset({"Add", "Cast", "Clip", "Div", "Expand", "Max", "Mul", "Pow", "Sqrt", "Sub"})
"""What may stand between the squares of a normalization and the fraction."""


@dataclass(frozen=True)
class NearRoot:
    """What is like ``sqrt(mean(square) + epsilon)``: the value that is squared, and what is another, or nothing."""

    squared: ir.Value
    reason: str


def near_root(value: ir.Value | None) -> NearRoot | None:
    """Return what a value is nearly the root of, or None where it is nothing like it."""
    steps: dict[str, None] = {}
    while value is not None and (node := value.producer()) is not None and is_standard(node):
        if node.op_type in REDUCTIONS:
            return _found(node, steps)
        if node.op_type not in STEPS:
            return None
        steps[node.op_type] = None
        value = next((each for each in node.inputs if each is not None and not is_constant(each)), None)
    return None


def _found(reduction: ir.Node, steps: dict[str, None]) -> NearRoot | None:
    """Return what is squared under a mean, a sum or a norm, and what is another than in the root of a mean of squares.

    ``steps`` are the types of the nodes between the reduction and the fraction.
    """
    value = reduction.inputs[0]
    if reduction.op_type in (MEAN, "ReduceSum"):
        square = squared_in(value)
        value = None if square is None else square[0]
    positive, cast, part = (producer(value, op_type) for op_type in ("Abs", "Cast", "Slice"))
    inside = positive or cast or part
    squared = value if inside is None else inside.inputs[0]
    summed = "the mean of the squares is written as a sum that is scaled" if SCALING & set(steps) else SUM
    reasons = (
        (reduction.op_type == "ReduceL2", NORM),
        (reduction.op_type != MEAN, summed),
        (not over_last(reduction), NOT_LAST),
        (part is not None, "the mean is over a part of what is divided"),
        (positive is not None, "what is squared is the absolute value"),
        ("Sub" in steps, "the variance is a mean of squares less the square of a mean"),
        (cast is not None or "Cast" in steps, CAST),
        ({"Clip", "Max"} & set(steps), "epsilon is a lower bound, and not added"),
        (SCALING & set(steps), "the mean of the squares is scaled, as for an unbiased variance"),
        ("Pow" in steps, "the root is written as a power"),
        ("Add" not in steps, "there is no epsilon"),
    )
    return None if squared is None else NearRoot(squared, next((reason for holds, reason in reasons if holds), ""))


def near_rms_norm(node: ir.Node) -> str:
    """Return why what ends at a Mul or Div is no root mean square normalization, or nothing where it is not like one.

    A norm or a sum of squares is only like one where there is a weight for each of the last axis: else it is that of a
    direction.
    """
    reader = only_reader(node.outputs[0])
    if reader is not None and reader.op_type in ("Cast", "Div", "Mul") and reader.inputs[0] is not None:
        return ""
    factors = list(_factors(node.outputs[0]))
    for below in _below(node, factors):
        near = near_root(below)
        if near is None or is_centred(near.squared) or near.squared not in factors:
            continue
        weighted = any(fits_last(each, near.squared) for each in factors)
        if near.reason in (NORM, SUM) and not weighted:
            continue
        cast = any(producer(each, "Cast") is not None for each in factors)
        return near.reason or (NO_WEIGHT if not weighted else CAST if cast else "")
    return ""


def _factors(value: ir.Value | None, depth: int = 4) -> Iterator[ir.Value]:
    """Yield the factors and dividends of a value, whatever their types."""
    for each in [] if value is None else product_of(value, root=True).factors:
        node = producer(each, "Div") or producer(each, "Cast")
        yield each
        if node is not None and depth:
            yield from _factors(node.inputs[0], depth - 1)


def _below(node: ir.Node, factors: list[ir.Value]) -> Iterator[ir.Value | None]:
    """Yield what a product is divided by."""
    for factor in (node.outputs[0], *factors):
        division = producer(factor, "Div")
        if division is not None:
            yield division.inputs[1]
        inverse = producer(factor, "Reciprocal") or producer(factor, "Pow")
        if inverse is not None:
            yield factor if inverse.op_type == "Pow" else inverse.inputs[0]


def near_layer_norm(difference: ir.Value | None, below: ir.Value | None) -> str:
    """Return why a difference over something is no layer normalization, or nothing where it is not like one."""
    near, above = near_root(below), producer(difference, "Sub")
    mean = producer(above.inputs[1], MEAN) if above is not None else None
    if near is None or above is None or mean is None or mean.inputs[0] is not above.inputs[0]:
        return ""
    inside = producer(near.squared, "Sub")
    return near.reason if (near.squared if inside is None else inside.inputs[0]) is mean.inputs[0] else ""


def is_centred(value: ir.Value) -> bool:
    """Whether a value is what a layer normalization divides."""
    difference = producer(value, "Sub")
    return difference is not None and producer(difference.inputs[1], MEAN) is not None
