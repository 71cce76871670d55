"""Attention as torch computes it, where torch.onnx computes something else or nothing.

A row that may look at no key gives zeros: below opset 23 torch.onnx writes the masked scores of such a row as the
smallest number, all alike, whose softmax is their mean, or as -inf, whose softmax is NaN. And it writes four axes only,
at opset 23 none that is broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch.nn import functional

from mlc.exporting.replaced import replaced

Attention: TypeAlias = Callable[..., Any]

AXES = 4
"""[batch, heads, length, width], which is all that torch.onnx writes."""


def _replaced(by: Callable[[Attention], Attention]) -> AbstractContextManager[None]:
    """Let modules call another ``scaled_dot_product_attention``, made of torch's own, inside the block."""
    return replaced(functional, "scaled_dot_product_attention", by)


def over_four_axes() -> AbstractContextManager[None]:
    """Trace ``scaled_dot_product_attention`` inside the block over four axes: [batch, heads, length, width]."""
    return _replaced(_over_four_axes)


def zeros_where_masked() -> AbstractContextManager[None]:
    """Trace ``scaled_dot_product_attention`` inside the block with its rows of zeros."""
    return _replaced(_with_zeros)


def _with_zeros(own: Attention) -> Attention:
    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        computed = own(query, key, value, attn_mask, *args, **kwargs)
        if attn_mask is None:
            return computed
        seen = attn_mask if attn_mask.dtype == torch.bool else attn_mask > float("-inf")
        zero = torch.zeros((), dtype=computed.dtype, device=computed.device)
        return torch.where(seen.any(dim=-1, keepdim=True), computed, zero)

    return attention


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
