"""Bags of embeddings as lookups and sums: torch.onnx writes a loop over bags, which no pass looks into."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlc.exporting.replaced import replaced


def bags_as_sums() -> AbstractContextManager[None]:
    """Trace ``embedding_bag`` inside the block by ``embedding``.

    Where vectors are cut to a norm, and where the last offset is an end, it is torch's own.
    """
    return replaced(functional, "embedding_bag", _by_lookup)


def _by_lookup(own: Callable[..., Any]) -> Callable[..., Tensor]:
    @wraps(own)
    def embedding_bag(  # noqa: PLR0917 - torch's arguments
        input: Tensor,  # noqa: A002 - torch's name
        weight: Tensor,
        offsets: Tensor | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        per_sample_weights: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Tensor:
        if max_norm is not None or include_last_offset:
            given = (input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse)
            found: Tensor = own(*given, per_sample_weights, include_last_offset, padding_idx)
            return found
        rows = functional.embedding(input, weight)
        if per_sample_weights is not None:
            rows *= per_sample_weights.unsqueeze(-1)
        kept = None if padding_idx is None else (input != padding_idx % weight.shape[0]).unsqueeze(-1)
        if offsets is None:
            return _reduced(rows, kept, mode)
        place = (torch.arange(input.shape[0], device=input.device)[:, None] >= offsets).sum(1) - 1
        return _gathered(rows, kept, place, offsets, mode)

    return embedding_bag


def _reduced(rows: Tensor, kept: Tensor | None, mode: str) -> Tensor:
    """Return the sum, mean or maximum of [bags, elements, width] over the elements that are kept; of none it is 0."""
    if mode == "max":
        return _finite(_only(rows, kept, -torch.inf).amax(1), kept)
    total = _only(rows, kept, 0.0).sum(1)
    return total / _counted(rows, kept).sum(1).clamp(min=1.0) if mode == "mean" else total


def _gathered(rows: Tensor, kept: Tensor | None, place: Tensor, starts: Tensor, mode: str) -> Tensor:
    """Return the same of [elements, width], each in the bag at its place; a bag may have none."""
    bags = torch.zeros_like(starts, dtype=rows.dtype).unsqueeze(-1)
    none = bags.expand(-1, rows.shape[1])
    if mode == "max":
        into = place.unsqueeze(-1).expand_as(rows)
        return _finite(none.scatter_reduce(0, into, _only(rows, kept, -torch.inf), "amax", include_self=False), kept)
    total = none.index_add(0, place, _only(rows, kept, 0.0))
    return total / bags.index_add(0, place, _counted(rows, kept)).clamp(min=1.0) if mode == "mean" else total


def _only(rows: Tensor, kept: Tensor | None, other: float) -> Tensor:
    return rows if kept is None else torch.where(kept, rows, other)


def _counted(rows: Tensor, kept: Tensor | None) -> Tensor:
    return torch.ones_like(rows[..., :1]) if kept is None else kept.to(rows.dtype)


def _finite(largest: Tensor, kept: Tensor | None) -> Tensor:
    return largest if kept is None else torch.where(largest == -torch.inf, 0.0, largest)
