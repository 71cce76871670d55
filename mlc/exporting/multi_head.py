"""torch.nn.MultiheadAttention with an axis for its heads, which torch folds into the batch, behind the length.

What a trace takes of torch's own are products over [batch * heads, length, width] between transposes of the input and
the output, which no operator of any runtime computes at once.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules import transformer

from mlc.exporting.replaced import replaced

Attention: TypeAlias = Callable[..., tuple[Tensor, Tensor | None]]

AXES = 3
"""Axes of [length, batch, features], and of a mask [batch * heads, queries, keys]."""


def over_heads() -> AbstractContextManager[None]:
    """Trace ``multi_head_attention_forward`` inside the block over four axes: [batch, heads, length, width]."""
    return replaced(functional, "multi_head_attention_forward", _over_heads)


def masks_as_given() -> AbstractContextManager[None]:
    """Trace torch's transformers inside the block without asking the values of a mask whether it is a causal one."""

    def detect(_own: Any) -> Callable[..., bool]:
        return lambda _mask, is_causal=None, _size=None: is_causal is True

    return replaced(transformer, "_detect_is_causal_mask", detect)


def _over_heads(own: Attention) -> Attention:
    signature = inspect.signature(own)

    def attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        return _attention(**given) if _is_plain(**given) else own(*args, **kwargs)

    return attention


def _is_plain(
    *, query: Tensor, embed_dim_to_check: int, num_heads: int, dropout_p: float, training: bool, is_causal: bool,
    attn_mask: Tensor | None, **others: Any,
) -> bool:  # fmt: skip
    """Whether a batch is given that is right, and nothing that makes keys or drops probabilities."""
    added = [others[name] for name in ("bias_k", "bias_v", "static_k", "static_v")]
    makes_keys = others["add_zero_attn"] or any(each is not None for each in added)
    drops = training and dropout_p > 0
    wrong = query.shape[-1] != embed_dim_to_check or embed_dim_to_check % num_heads or (is_causal and attn_mask is None)
    return query.dim() == AXES and not makes_keys and not drops and not wrong


def _attention(
    *, query: Tensor, key: Tensor, value: Tensor, num_heads: int, out_proj_weight: Tensor, out_proj_bias: Tensor | None,
    key_padding_mask: Tensor | None, need_weights: bool, attn_mask: Tensor | None, average_attn_weights: bool,
    is_causal: bool, **projections: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return answers [length, batch, features] and probabilities, as torch's own."""
    q, k, v = (
        torch.unflatten(each, -1, (num_heads, -1)).transpose(1, 2)
        for each in _projected(query, key, value, **projections)
    )
    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal else _mask(attn_mask, key_padding_mask, num_heads, query.dtype)
    weights = None
    if need_weights:
        scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(-2, -1)
        weights = functional.softmax(scores if mask is None else mask + scores, dim=-1)
        attended = weights @ v
        weights = weights.mean(dim=1) if average_attn_weights else weights
    else:
        attended = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    answers = functional.linear(attended.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    return answers.transpose(0, 1).contiguous(), weights  # a view may follow, which torch's own strides allow


def _projected(
    query: Tensor, key: Tensor, value: Tensor, *, in_proj_weight: Tensor, in_proj_bias: Tensor | None,
    use_separate_proj_weight: bool, **others: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return queries, keys and values [batch, length, features]; one product makes them of a sequence that is all."""
    turned = {id(each): each.transpose(0, 1) for each in (query, key, value)}
    q, k, v = (turned[id(each)] for each in (query, key, value))
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    if not use_separate_proj_weight and q is k is v:
        return functional.linear(q, in_proj_weight, in_proj_bias).chunk(3, -1)
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    weights = [others[name] for name in names] if use_separate_proj_weight else in_proj_weight.chunk(3)
    return tuple(map(functional.linear, (q, k, v), weights, biases))


def _mask(by_query: Tensor | None, by_key: Tensor | None, heads: int, dtype: torch.dtype) -> Tensor | None:
    """Return what is added to scores, of a mask [queries, keys] or [batch * heads, queries, keys] and of padding."""
    if by_query is not None:
        by_query = _added(by_query, dtype)
        by_query = by_query if by_query.dim() < AXES else torch.unflatten(by_query, 0, (-1, heads))
    if by_key is None:
        return by_query
    by_key = _added(by_key, dtype)[:, None, None]
    return by_key if by_query is None else by_query + by_key


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask as numbers: -inf where it is True."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask
