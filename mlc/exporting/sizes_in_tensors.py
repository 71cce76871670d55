"""Tensors that are made of sizes: torch.export looks for ``torch.tensor`` alone, and other functions fix them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mlc.exporting.replaced import replaced


@contextmanager
def sizes_in_tensors() -> Iterator[None]:
    """Trace ``as_tensor`` and ``new_tensor`` of sizes inside the block by ``tensor``, which torch.export looks for."""
    with replaced(torch, "as_tensor", _made), replaced(Tensor, "new_tensor", _made_like):
        yield


def _of_sizes(data: Any) -> bool:
    return any(isinstance(leaf, torch.SymInt | torch.SymFloat) for leaf in tree_leaves(data))


def _made(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Any:
        if not _of_sizes(data):
            return own(data, dtype=dtype, device=device)
        found = torch.tensor(data, device=device)
        return found if dtype is None else found.to(dtype)

    return as_tensor


def _made_like(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def new_tensor(self: Tensor, data: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
        if not _of_sizes(data):
            return own(self, data, dtype=dtype, **options)
        return torch.tensor(data, device=self.device).to(dtype or self.dtype)

    return new_tensor
