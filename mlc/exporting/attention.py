"""Attention as torch computes it: a row that may look at no key gives zeros, in the exported model too.

torch.onnx writes the masked scores of such a row as the smallest number, all alike, whose softmax is their mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def zeros_where_masked() -> Iterator[None]:
    """Trace ``scaled_dot_product_attention`` inside the block with its rows of zeros, as plain products."""
    own = functional.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        computed = own(query, key, value, attn_mask, *args, **kwargs)
        if attn_mask is None or attn_mask.dtype != torch.bool:
            return computed
        zero = torch.zeros((), dtype=computed.dtype, device=computed.device)
        return torch.where(attn_mask.any(dim=-1, keepdim=True), computed, zero)

    functional.scaled_dot_product_attention = attention
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the others compute with strides that torch.onnx cannot follow
            yield
    finally:
        functional.scaled_dot_product_attention = own
