"""torch.nn.TransformerEncoder as it computes without gradients: it leaves padding behind a sequence out, and gives 0.

Its fast path does, which cannot be traced; otherwise torch computes what stands there as anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

Forward: TypeAlias = Callable[..., Tensor]

AXES = 3
"""Axes of a batch: [batch, length, features]."""


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Take the fast path of transformers nowhere inside the block, and have what it gives for padding all the same."""
    fast_path, forward = torch.backends.mha.get_fastpath_enabled(), nn.TransformerEncoder.forward
    torch.backends.mha.set_fastpath_enabled(False)
    if fast_path:
        nn.TransformerEncoder.forward = _giving_nothing(forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.TransformerEncoder.forward = forward  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _giving_nothing(own: Forward) -> Forward:
    def forward(
        self: nn.TransformerEncoder,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        padding = src_key_padding_mask
        if padding is None or mask is not None or src.dim() != AXES or not getattr(self, "use_nested_tensor", False):
            return own(self, src, mask, padding, is_causal)
        padded = padding if padding.dtype is torch.bool else padding != 0
        behind = torch.arange(src.shape[1], device=src.device) >= (~padded).sum(dim=1, keepdim=True)
        if getattr(self, "mask_check", True):  # anything in front of a sequence, and nothing is left out
            left_out = behind & (padded == behind).all()
        else:
            padding = left_out = behind
        norm, self.norm = self.norm, None
        try:
            output = own(self, src, mask, padding, is_causal)
        finally:
            self.norm = norm
        output = output.masked_fill(left_out.unsqueeze(-1), 0.0)
        return output if norm is None else norm(output)

    return forward
