"""Grids of as many points as a size that varies has: torch fixes the number that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlc.exporting.replaced import replaced


@contextmanager
def grids() -> Iterator[None]:
    """Trace ``linspace``, ``affine_grid``, ``fftfreq`` and ``rfftfreq`` inside the block for any number of points."""
    with (
        replaced(torch, "linspace", _spaced),
        replaced(functional, "affine_grid", _affine),
        replaced(torch.fft, "fftfreq", _frequencies(_of_both_signs)),
        replaced(torch.fft, "rfftfreq", _frequencies(lambda n, **of: torch.arange(n // 2 + 1, **of))),
    ):
        yield


def _spaced(own: Callable[..., Any]) -> Callable[..., Any]:
    """From the start in the first half and from the end in the second: ATen/native/cpu/RangeFactoriesKernel.cpp."""

    @wraps(own)
    def linspace(start: Any, end: Any, steps: Any, **options: Any) -> Any:
        varies = isinstance(steps, torch.SymInt) and all(isinstance(bound, int | float) for bound in (start, end))
        if not varies:
            return own(start, end, steps, **options)
        dtype = options.pop("dtype", None) or torch.get_default_dtype()
        places = torch.arange(steps, **options)
        count = torch.ones_like(places).sum() - 1
        step = (torch.full_like(count, end, dtype=dtype) - start) / count.clamp(min=1)
        half = ((count + 1) // 2).clamp(min=1)
        return torch.where(places < half, start + step * places, end - step * (count - places)).to(dtype)

    return linspace


def _affine(own: Callable[..., Any]) -> Callable[..., Any]:
    """The points of an image or a volume, from -1 to 1, each turned and moved by the matrix of its sample."""

    @wraps(own)
    def affine_grid(theta: Any, size: Any, align_corners: bool | None = None) -> Any:
        if not any(isinstance(each, torch.SymInt) for each in size):
            return own(theta, size, align_corners)
        of: dict[str, Any] = {"dtype": theta.dtype, "device": theta.device}
        axes = []
        for count in size[2:]:
            apart = 2 * torch.arange(count, **of) - (count - 1)
            axes.append(apart / (_at_least_one(count - 1) if align_corners else count))
        points = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
        moved = points.flatten(0, -2) @ theta[:, :, :-1].mT + theta[:, None, :, -1]
        return moved.view(theta.shape[0], *size[2:], len(axes))

    return affine_grid


def _at_least_one(size: Any) -> Any:
    most: Any = torch.sym_max
    return most(size, 1)


def _frequencies(numerators: Callable[..., Tensor]) -> Callable[[Any], Callable[..., Any]]:
    def replacement(own: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(own)
        def frequencies(n: Any, d: float = 1.0, **options: Any) -> Any:
            if not isinstance(n, torch.SymInt):
                return own(n, d, **options)
            dtype = options.pop("dtype", None) or torch.get_default_dtype()
            return numerators(n, **options).to(dtype) / (n * d)

        return frequencies

    return replacement


def _of_both_signs(n: Any, **options: Any) -> Tensor:
    return torch.cat([torch.arange((n - 1) // 2 + 1, **options), torch.arange(-(n // 2), 0, **options)])
