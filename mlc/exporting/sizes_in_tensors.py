"""Tensors that are made of sizes: torch.export looks for ``torch.tensor`` alone, and other functions fix them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mlc.exporting.replaced import replaced


@contextmanager
def sizes_in_tensors() -> Iterator[None]:
    """Trace ``as_tensor`` and ``new_tensor`` of sizes inside the block by ``tensor``, and that as torch.export does.

    Of a list in which there are tensors, such as logarithms of sizes are, by what joins them.
    """
    made_like = replaced(Tensor, "new_tensor", _made_like)
    with replaced(torch, "as_tensor", _made), made_like, replaced(torch, "tensor", _joined):
        yield


def _of_sizes(data: Any) -> bool:
    return any(isinstance(leaf, torch.SymInt | torch.SymFloat) for leaf in tree_leaves(data))


def _of_tensors(data: Any) -> bool:
    return isinstance(data, list | tuple) and any(isinstance(leaf, Tensor) for leaf in tree_leaves(data))


def _joined(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def tensor(data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **options: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or not (_of_sizes(data) or _of_tensors(data)):
            return own(data, dtype=dtype, device=device, **options)
        if _of_tensors(data):
            parts = [part if isinstance(part, Tensor) else tensor(part, device=device) for part in data]
            kind = dtype or reduce(torch.promote_types, (part.dtype for part in parts))
            return torch.stack([part.to(device=device, dtype=kind) for part in parts])
        refs: Any = torch._refs  # noqa: SLF001 - as torch.export does
        return refs.tensor(data, dtype=dtype, device=device)

    return tensor


def _made(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def as_tensor(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Any:
        if not (_of_sizes(data) or _of_tensors(data)):
            return own(data, dtype=dtype, device=device)
        found = torch.tensor(data, device=device)
        return found if dtype is None else found.to(dtype)

    return as_tensor


def _made_like(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def new_tensor(self: Tensor, data: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
        if not (_of_sizes(data) or _of_tensors(data)):
            return own(self, data, dtype=dtype, **options)
        return torch.tensor(data, device=self.device).to(dtype or self.dtype)

    return new_tensor
