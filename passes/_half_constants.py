"""Constants that float16 readers get: weights as they are, the numbers of masks and bounds brought into range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.fusion import array_of, is_constant, is_standard, only_reader
from passes._half import FLOAT16, number_obstacle, rounded, too_large
from passes._half_sensitive import CASTING, PASSING, PRODUCTS
from passes._half_types import is_float

if TYPE_CHECKING:
    from mlc.types import Array

MASKING = -1e9
"""A number up to which nothing is data: scores that it is added to count no more."""

LOWEST = -(2.0**14)
"""What takes the place of a masking number. It is a quarter of the lowest float16, so that scores and a second mask may
be added to it without -inf, which would make NaN of a row that is wholly masked."""

CLAMPED = f"masking numbers up to {MASKING:g} became {LOWEST:g}, since -inf makes NaN of rows that are wholly masked"
"""A note; the names of the masks follow."""

NEAR = 2.0**-7
"""Below it a number is taken for one that keeps others from 0: its square is below the smallest normal float16."""

BIASED = 2
"""The place from which on the inputs of a product are added to it."""

MOVED = frozenset({"Cast", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What gives the elements of its first input in other places."""

MASK_INPUT = {"Attention": 3, "GroupQueryAttention": 10, "MultiHeadAttention": 5}


class Role(Enum):
    """How a constant is brought into range."""

    PLAIN = "plain"
    MASK = "mask"
    LOWER = "lower bound"
    UPPER = "upper bound"


BOUNDS = (Role.LOWER, Role.UPPER)


def role_of(node: ir.Node, index: int, array: Array) -> Role:
    """Return what a constant is for the node that reads it at this place."""
    bound = _bound(node, index)
    if bound is not None and not _excludes_all(bound, array):
        return bound
    large = array[np.isfinite(array) & (np.abs(array) > FLOAT16.highest)]
    if large.size and bool((large <= MASKING).all()) and _takes_masks(node, index):
        return Role.MASK
    return Role.PLAIN


def _bound(node: ir.Node, index: int) -> Role | None:
    """Return which bound a node takes what it reads at a place for, if any."""
    if node.op_type in ("Max", "Min"):
        return Role.LOWER if node.op_type == "Max" else Role.UPPER
    return {1: Role.LOWER, 2: Role.UPPER}.get(index) if node.op_type == "Clip" else None


def _excludes_all(bound: Role, array: Array) -> bool:
    """Whether a bound leaves no number of float16: a lower one above its highest, an upper one below its lowest."""
    return bool((array > FLOAT16.highest if bound is Role.LOWER else array < -FLOAT16.highest).any())


def _takes_masks(node: ir.Node, index: int) -> bool:
    return node.op_type in {"Add", "Mul", "Where"} or is_attention_mask(node, index)


def is_attention_mask(node: ir.Node, index: int) -> bool:
    """Whether an attention adds what it reads at this place to its scores."""
    return MASK_INPUT.get(node.op_type) == index


def is_added_mask(node: ir.Node, index: int) -> bool:
    """Whether an Add before a Softmax adds to its scores what no product is behind: a mask, whatever it held so far.

    What moves the mask there counts as the Add.
    """
    if node.op_type in MOVED and index == 0 and is_standard(node):
        return any(is_added_mask(use.node, use.idx) for use in node.outputs[0].uses())
    if node.op_type != "Add":
        return False
    reader = only_reader(node.outputs[0])
    while reader is not None and reader.op_type in {"Cast", "Identity"}:
        reader = only_reader(reader.outputs[0])
    if reader is None or reader.op_type != "Softmax":
        return False
    mask, scores = node.inputs[index], node.inputs[1 - index]
    return not is_constant(mask) and not _is_computed_by_product(mask) and _is_computed_by_product(scores)


def made_of_infinity(value: ir.Value) -> bool:
    """Whether a constant -Inf passes on to a value."""
    sources = _sources(value, lambda node: node.op_type in PASSING or node.op_type in CASTING)
    return any(is_constant(each) and is_float(each) and np.isneginf(array_of(each)).any() for each in sources)


def _is_computed_by_product(value: ir.Value | None) -> bool:
    producers = (each.producer() for each in _sources(value, lambda _node: True))
    return any(node is not None and node.op_type in PRODUCTS for node in producers)


def _sources(value: ir.Value | None, through: Callable[[ir.Node], bool]) -> Iterator[ir.Value]:
    """Yield a value and what it is computed of, each once, behind the nodes that a question passes through."""
    seen: set[ir.Value] = set()
    sought = [value]
    while sought:
        each = sought.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        yield each
        producer = each.producer()
        if producer is not None and through(producer):
            sought += producer.inputs


def constant_obstacle(node: ir.Node, index: int) -> str:
    """Return why a constant cannot be read in float16 at this place, or nothing.

    A bound beyond float16 is none, and may be its last number as well. Small numbers in what is added to larger ones,
    as a bias, are no obstacle; a single one that is added is: it keeps a divisor from 0.
    """
    value = node.inputs[index]
    assert value is not None
    array = array_of(value)
    if role_of(node, index, array) is not Role.PLAIN:
        return ""
    if node.op_type in {"Add", "Sub"} and _becomes_whole(array):
        return f"its constant {value.name} of {float(array.reshape(())):.8g} would be a whole number"
    added = (node.op_type in PRODUCTS and index >= BIASED) or (node.op_type == "Add" and array.size > 1)
    if added and too_large(array, FLOAT16) is None:
        return ""
    problem = number_obstacle(array, FLOAT16)
    return f"its constant {value.name} {problem}" if problem else ""


def _becomes_whole(array: Array) -> bool:
    """Whether a number next to a whole one other than 0, such as 1 + 1e-6, is that one in float16."""
    if array.size != 1 or too_large(array, FLOAT16) is not None:
        return False
    number, half = float(array.reshape(())), float(rounded(array, FLOAT16).reshape(()))
    return half not in {number, 0} and half == round(half)


def keeps_from_zero(node: ir.Node) -> float | None:
    """Return the small number that a node adds, bounds by or chooses, whose results then are not below it; or None."""
    places = {"Add": (0, 1), "Sum": range(len(node.inputs)), "Sub": (1,), "Max": range(len(node.inputs)), "Clip": (1,)}
    for index in {**places, "Where": (1, 2)}.get(node.op_type, ()):
        value = node.inputs[index] if index < len(node.inputs) else None
        array = array_of(value) if value is not None and is_constant(value) else np.zeros(0)
        numbers = -array if node.op_type == "Sub" else array
        if numbers.size and bool((numbers > 0).all()) and float(numbers.max()) < NEAR:
            return float(numbers.min())
    return None


def fitted(array: Array, role: Role) -> Array:
    """Return a constant with finite numbers within float16; NaN and infinities stay.

    Bounds are rounded inwards: of 1 - 1e-6, which keeps a logarithm finite, the nearest float16 is 1.
    """
    if role is Role.MASK:
        return np.where(np.isfinite(array) & (array <= MASKING), np.array(LOWEST, array.dtype), array)
    if role not in BOUNDS:
        return array
    within: Array = np.clip(array, -FLOAT16.highest, FLOAT16.highest)
    nearest = within.astype(np.float16)
    beyond = nearest < within if role is Role.LOWER else nearest > within
    inner = np.nextafter(nearest, np.float16(np.inf if role is Role.LOWER else -np.inf))
    return np.where(np.isfinite(array), np.where(beyond, inner, nearest).astype(array.dtype), array)
