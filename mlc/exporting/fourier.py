"""The inverse real Fourier transform over an axis whose length varies, as products with its matrices.

ONNX's DFT takes its length from a value, of which onnxruntime makes another shape than torch.onnx writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor

from mlc.exporting.replaced import replaced


def inverse_by_products() -> AbstractContextManager[None]:
    """Trace ``torch.fft.irfft`` inside the block as two products, where the length is no number."""
    return replaced(torch.fft, "irfft", _where_no_number)


def _where_no_number(own: Callable[..., Any]) -> Callable[..., Any]:
    def irfft(input: Tensor, n: Any = None, dim: int = -1, norm: str | None = None) -> Tensor:  # noqa: A002 - torch's name
        bins = input.shape[dim]
        length = 2 * (bins - 1) if n is None else n
        if (isinstance(length, int) and isinstance(bins, int)) or bins < length // 2 + 1:
            return cast("Tensor", own(input, n, dim, norm))
        return _by_products(input, length, dim % input.ndim, norm)

    return irfft


def _by_products(spectrum: Tensor, length: Any, dim: int, norm: str | None) -> Tensor:
    """Return ``sum_k w_k (Re X_k cos(2 pi k m / n) - Im X_k sin(2 pi k m / n))`` for each m, scaled by the norm.

    w_k is 1 for the mean and for the highest frequency of an even length, else 2: its conjugate is not stored.
    """
    if not spectrum.is_complex():
        spectrum = torch.complex(spectrum, torch.zeros_like(spectrum))
    parts = torch.view_as_real(spectrum).movedim(dim, -2)[..., : length // 2 + 1, :]
    k = torch.arange(length // 2 + 1, device=spectrum.device)
    m = torch.arange(length, device=spectrum.device)
    angles = (k[:, None] * m % length).to(parts.dtype) * (2 * math.pi / _count(m, parts.dtype))
    weights = (2 - (k == 0).long() - (2 * k == length).long()).to(parts.dtype)
    summed = (parts[..., 0] * weights) @ angles.cos() - (parts[..., 1] * weights) @ angles.sin()
    scaled: Tensor = summed * _scale(_count(m, parts.dtype), norm)
    return scaled.movedim(-1, dim)


def _count(steps: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how many steps there are, as a tensor: of a size alone torch.onnx takes no root."""
    return torch.ones_like(steps).sum().to(dtype)


def _scale(count: Tensor, norm: str | None) -> Tensor:
    """Return what the sum is multiplied by, of the length of the signal."""
    if norm == "ortho":
        return count.rsqrt()
    return torch.ones_like(count) if norm == "forward" else count.reciprocal()
