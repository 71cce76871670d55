"""``cdist``: torch writes it as an operator of its own up to 25 rows, and above as a product, by a branch on the sizes.

(ATen/native/Distance.cpp: cdist_impl, _euclidean_dist.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from mlc.exporting.replaced import replaced

FEW = 25
"""Rows on both sides up to which torch takes differences."""

BY_PRODUCT = {"use_mm_for_euclid_dist_if_necessary": None, "use_mm_for_euclid_dist": True}
"""Ways to compute that may be a product, and whether it always is one."""


def distances() -> AbstractContextManager[None]:
    """Trace ``torch.cdist`` inside the block by operators that have counterparts, one way for all sizes.

    Euclidean ones of rows that may be more than 25 are a product, as torch computes these.
    """
    return replaced(torch, "cdist", _written_out)


def _written_out(_own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = next(iter(BY_PRODUCT))) -> Tensor:
        few = all(statically_known_true(x.shape[-2] <= FEW) for x in (x1, x2))
        product = BY_PRODUCT.get(compute_mode, False)
        if p == 2 and (not few if product is None else product):  # noqa: PLR2004
            squares = x1.square().sum(-1, keepdim=True) + x2.square().sum(-1, keepdim=True).transpose(-1, -2)
            return (squares - 2 * (x1 @ x2.transpose(-1, -2))).clamp_min(0).sqrt()
        return _norm((x1.unsqueeze(-2) - x2.unsqueeze(-3)).abs(), p)

    return cdist


def _norm(apart: Tensor, p: float) -> Tensor:
    """Return the norm of absolute differences along the last axis."""
    if p == 0:
        return (apart != 0).sum(-1).to(apart.dtype)
    if p == 1:
        return apart.sum(-1)
    if p == 2:  # noqa: PLR2004
        return apart.square().sum(-1).sqrt()
    return apart.amax(-1) if math.isinf(p) else apart.pow(p).sum(-1).pow(1 / p)
