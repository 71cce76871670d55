"""Adaptive pooling of lengths that vary: torch.onnx writes windows of the sizes that it is traced at.

Of a length L, place i of w is pooled over those from floor(i L / w) to before ceil((i + 1) L / w): a mean of them is a
product with a matrix. (ATen/native/AdaptivePooling.h: start_index, end_index.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mlc.exporting.replaced import replaced


@contextmanager
def adaptive_pooling() -> Iterator[None]:
    """Trace adaptive pooling inside the block for any length; to one place it is a reduction already."""
    with ExitStack() as stack:
        for axes in (1, 2, 3):
            stack.enter_context(replaced(functional, f"adaptive_avg_pool{axes}d", _pooling(axes, _means)))
            stack.enter_context(replaced(functional, f"adaptive_max_pool{axes}d", _pooling(axes, _largest)))
        yield


def _pooling(axes: int, pool: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any], Callable[..., Any]]:
    def replacement(own: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(own)  # what quantizes knows functions by their names
        def adaptive_pool(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:  # noqa: A002 - torch's
            given = output_size if isinstance(output_size, list | tuple) else (output_size,) * axes
            wanted = dict(zip(range(-axes, 0), given, strict=True))
            varies = any(isinstance(input.shape[axis], torch.SymInt) for axis, size in wanted.items() if size != 1)
            if return_indices or not varies or all(size == 1 for size in given):
                return own(input, output_size, *((return_indices,) if return_indices else ()))
            pooled = input
            for axis, size in wanted.items():
                if size is not None:
                    windows = _windows(input.shape[axis], size, input.device)
                    pooled = pool(pooled.transpose(axis, -1), windows).transpose(axis, -1)
            return pooled

        return adaptive_pool

    return replacement


def _windows(length: Any, size: Any, device: torch.device) -> Tensor:
    """Return which places of a length are in the window of which place of a size: [size, length]."""
    windows = torch.arange(size, device=device)[:, None]
    places = torch.arange(length, device=device)
    inside: Tensor = (places >= windows * length // size) & (places < ((windows + 1) * length + size - 1) // size)
    return inside


def _means(x: Tensor, windows: Tensor) -> Tensor:
    """Return the mean over each window of the last axis, [..., size]."""
    inside = windows.to(x.dtype)
    return x @ (inside / inside.sum(1, keepdim=True)).transpose(0, 1)


def _largest(x: Tensor, windows: Tensor) -> Tensor:
    """Return the largest in each window of the last axis, [..., size]."""
    return torch.where(windows, x.unsqueeze(-2), -torch.inf).amax(-1)
