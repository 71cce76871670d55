"""Attention as torch computes it, where torch.onnx computes something else or nothing.

A row that may look at no key gives zeros: below opset 23 torch.onnx writes the masked scores of such a row as the
smallest number, all alike, whose softmax is their mean, or as -inf, whose softmax is NaN. A row whose mask is the
lowest float gives a mean, and at opset 23 onnxruntime gives zeros. And torch.onnx writes four axes only, at opset 23
none that is broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from mlc.errors import SourceError
from mlc.exporting.errors import line_of
from mlc.exporting.inserting import before, calls_of, replace
from mlc.exporting.opset import NEWER
from mlc.exporting.reducing import arguments_of
from mlc.exporting.replaced import replaced

Attention: TypeAlias = Callable[..., Any]

aten: Any = torch.ops.aten

AXES = 4
"""[batch, heads, length, width], which is all that torch.onnx writes."""


def over_four_axes() -> AbstractContextManager[None]:
    """Trace ``scaled_dot_product_attention`` inside the block over four axes: [batch, heads, length, width]."""
    return replaced(functional, "scaled_dot_product_attention", _over_four_axes)


def rows_of_masks(program: torch.export.ExportedProgram, opset: int) -> None:
    """Write what rows give that look at no key, or all of whose keys are masked alike, as torch has it."""
    for node in calls_of(program, {aten.scaled_dot_product_attention.default}):
        mask = arguments_of(node).get("attn_mask")
        if mask is None:
            continue
        floats = mask.meta["val"].is_floating_point()
        if opset < NEWER:
            _zero_where_masked(node, before(node, aten.gt.Scalar, mask, -math.inf) if floats else mask)
        elif floats:
            node.replace_input_with(mask, _without_lowest(node, mask))


def scores_by_queries(program: torch.export.ExportedProgram) -> None:
    """Scale the queries where the scale is no number above 0: Attention refuses it, and below opset 23 it has a root.

    Raises SourceError for one beside ``is_causal``, of which torch's kernel for CPUs has NaN: it scales what is -inf.
    """
    for node in calls_of(program, {aten.scaled_dot_product_attention.default}):
        given = arguments_of(node)
        scale = given.get("scale")
        if not isinstance(scale, int | float) or scale > 0:
            continue
        if given.get("is_causal"):
            line = line_of(node)
            raise SourceError(
                f"scaled_dot_product_attention{f' at {line}' if line else ''} is causal with a scale of {scale}, "
                "of which torch itself gives NaN on a CPU",
                "give it a mask instead of is_causal: torch.ones(length, length, dtype=torch.bool).tril()",
            )
        query: Any = node.args[0]
        node.args = (before(node, aten.mul.Tensor, query, float(scale)), *node.args[1:])
        node.kwargs = {**node.kwargs, "scale": 1.0}


def _zero_where_masked(node: torch.fx.Node, seen: torch.fx.Node) -> None:
    computed = before(node, node.target, *node.args, **node.kwargs)
    some = before(node, aten.any.dim, seen, -1, True)  # noqa: FBT003 - torch's keepdim
    zero = before(node, aten.scalar_tensor.default, 0.0, dtype=node.meta["val"].dtype)
    replace(node, before(node, aten.where.self, some, computed, zero))


def _without_lowest(node: torch.fx.Node, mask: torch.fx.Node) -> torch.fx.Node:
    """Return a mask with half the lowest float in place of the lowest: it masks as well, and what is -inf stays."""
    lowest = torch.finfo(mask.meta["val"].dtype).min
    half = before(node, aten.scalar_tensor.default, lowest / 2, dtype=mask.meta["val"].dtype)
    return before(node, aten.where.self, before(node, aten.eq.Scalar, mask, lowest), half, mask)


def _over_four_axes(own: Attention) -> Attention:
    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        parts, lead = (query, key, value), query.shape[:-3]
        if query.dim() == AXES:
            grouped = kwargs.pop("enable_gqa", False) and query.shape[1] != key.shape[1]
            return own(*_alike(parts, grouped=grouped), attn_mask, *args, enable_gqa=grouped, **kwargs)
        if query.dim() < AXES:
            if attn_mask is not None and attn_mask.dim() >= query.dim():
                attn_mask = attn_mask.unsqueeze(-3)
            return attention(*(part.unsqueeze(-3) for part in parts), attn_mask, *args, **kwargs).squeeze(-3)
        mask = attn_mask
        if mask is not None and mask.dim() >= AXES:
            mask = mask.expand(*lead, *mask.shape[-3:]).flatten(0, -4)
        flat = (part.expand(*lead, *part.shape[-3:]).flatten(0, -4) for part in parts)
        return attention(*flat, mask, *args, **kwargs).unflatten(0, lead)

    return attention


def _alike(parts: tuple[Any, ...], *, grouped: bool) -> tuple[Any, ...]:
    """Return queries, keys and values of one batch and, unless ``grouped``, as many heads: opset 23 broadcasts none.

    A size that varies is not compared with anything, which would be a condition on it.
    """
    axes = (0,) if grouped else (0, 1)
    whole = {axis: next((part.shape[axis] for part in parts if not _is_one(part.shape[axis])), 1) for axis in axes}

    def expanded(part: Any) -> Any:
        short = [axis for axis in axes if _is_one(part.shape[axis]) and not _is_one(whole[axis])]
        return part.expand(*(whole[axis] if axis in short else -1 for axis in range(AXES))) if short else part

    return tuple(map(expanded, parts))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1
