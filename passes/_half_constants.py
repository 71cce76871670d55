"""Constants that float16 readers get: weights as they are, the numbers of masks and bounds brought into range."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mlc.fusion import array_of
from passes._half import FLOAT16, number_obstacle, too_large
from passes._half_sensitive import PRODUCTS

if TYPE_CHECKING:
    from mlc.types import Array

MASKING = -1e9
"""A number up to which nothing is data: scores that it is added to count no more."""

LOWEST = -(2.0**14)
"""What takes the place of a masking number. It is a quarter of the lowest float16, so that scores and a second mask may
be added to it without -inf, which would make NaN of a row that is wholly masked."""

CLAMPED = f"masking numbers up to {MASKING:g} became {LOWEST:g}, since -inf makes NaN of rows that are wholly masked"
"""A note; the names of the masks follow."""

BOUNDING = frozenset({"Clip", "Max", "Min"})
"""Operators for which a bound beyond float16 is none: it may be the last number as well."""

BIASED = 2
"""The place from which on the inputs of a product are added to it."""

MASK_INPUT = {"Attention": 3, "GroupQueryAttention": 10, "MultiHeadAttention": 5}


class Role(Enum):
    """How a constant is brought into range."""

    PLAIN = "plain"
    MASK = "mask"
    BOUND = "bound"


def role_of(node: ir.Node, index: int, array: Array) -> Role:
    """Return what a constant is for the node that reads it at this place."""
    if node.op_type in BOUNDING and not _excludes_all(node, index, array):
        return Role.BOUND
    large = array[np.isfinite(array) & (np.abs(array) > FLOAT16.highest)]
    if large.size and bool((large <= MASKING).all()) and _takes_masks(node, index):
        return Role.MASK
    return Role.PLAIN


def _excludes_all(node: ir.Node, index: int, array: Array) -> bool:
    """Whether a bound leaves no number of float16: a lower one above its highest, an upper one below its lowest."""
    lower = node.op_type == "Max" or (node.op_type == "Clip" and index == 1)
    return bool((array > FLOAT16.highest if lower else array < -FLOAT16.highest).any())


def _takes_masks(node: ir.Node, index: int) -> bool:
    return node.op_type in {"Add", "Mul", "Where"} or is_attention_mask(node, index)


def is_attention_mask(node: ir.Node, index: int) -> bool:
    """Whether an attention adds what it reads at this place to its scores."""
    return MASK_INPUT.get(node.op_type) == index


def constant_obstacle(node: ir.Node, index: int) -> str:
    """Return why a constant cannot be read in float16 at this place, or nothing.

    Small numbers in what is added to larger ones, as a bias, are no obstacle; a single one that is added is: it keeps a
    divisor from 0.
    """
    value = node.inputs[index]
    assert value is not None
    array = array_of(value)
    if role_of(node, index, array) is not Role.PLAIN:
        return ""
    added = (node.op_type in PRODUCTS and index >= BIASED) or (node.op_type == "Add" and array.size > 1)
    if added and too_large(array, FLOAT16) is None:
        return ""
    problem = number_obstacle(array, FLOAT16)
    return f"its constant {value.name} {problem}" if problem else ""


def fitted(array: Array, role: Role) -> Array:
    """Return a constant with finite numbers within float16; NaN and infinities stay."""
    if role is Role.MASK:
        return np.where(np.isfinite(array) & (array <= MASKING), np.array(LOWEST, array.dtype), array)
    if role is Role.BOUND:
        within: Array = np.clip(array, -FLOAT16.highest, FLOAT16.highest)
        return np.where(np.isfinite(array), within, array)
    return array
