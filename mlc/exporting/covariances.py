"""Covariances of rows, without weights: torch's own function looks at the values of weights that it makes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from mlc.exporting.replaced import replaced


@contextmanager
def covariances() -> Iterator[None]:
    """Trace ``torch.cov`` and ``torch.corrcoef`` inside the block by products; with weights they are torch's own."""
    with replaced(torch, "cov", _covariance), replaced(torch, "corrcoef", lambda _own: _correlation):
        yield


def _covariance(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def cov(input: Tensor, *, correction: int = 1, **weights: Any) -> Any:  # noqa: A002 - torch's name
        return own(input, correction=correction, **weights) if weights else _of_rows(input, correction)

    return cov


def _of_rows(rows: Tensor, correction: int) -> Tensor:
    """Return the covariances of [rows, observations], [rows, rows]; of one row, which may have no axis, a number."""
    rows = rows.to(torch.get_default_dtype()) if not (rows.is_floating_point() or rows.is_complex()) else rows
    table = rows if rows.ndim > 1 else rows.reshape(1, -1)
    centred = table - table.mean(1, keepdim=True)
    count = torch.ones_like(table[0].real).sum() - correction
    found: Tensor = centred @ centred.conj().transpose(0, 1) / count.clamp(min=0)
    return found if rows.ndim > 1 and rows.shape[0] != 1 else found.reshape([])


def _correlation(input: Tensor) -> Tensor:  # noqa: A002 - torch's name
    found = _of_rows(input, 1)
    if not found.ndim:
        return found / found
    spread = found.diagonal().sqrt()
    return (found / spread[:, None] / spread).clamp(-1.0, 1.0)
