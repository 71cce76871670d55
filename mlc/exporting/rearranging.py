"""Functions that move elements, of which a trace fixes sizes, or which torch.onnx has no words for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mlc.exporting.replaced import replaced


@contextmanager
def rearranging() -> Iterator[None]:
    """Trace ``take_along_dim``, ``fftshift`` and ``ifftshift`` inside the block by gathers and parts."""
    with (
        replaced(torch, "take_along_dim", lambda _own: _take_along_dim),
        replaced(torch.fft, "fftshift", lambda _own: _shifting(lambda size: size - size // 2)),
        replaced(torch.fft, "ifftshift", lambda _own: _shifting(lambda size: size // 2)),
    ):
        yield


def _take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:  # noqa: A002 - torch's name
    """Return elements along an axis, by indices that broadcast with the other axes where either has one."""
    if dim is None:
        return input.flatten().gather(0, indices.flatten())
    axis = dim % input.ndim
    joint = [_joint(*sizes) for sizes in zip(input.shape, indices.shape, strict=True)]
    values, places = (side.expand([*joint[:axis], side.shape[axis], *joint[axis + 1 :]]) for side in (input, indices))
    return values.gather(axis, places)


def _joint(first: Any, second: Any) -> Any:
    """Return the size that two broadcast to; only a number is known to be one."""
    return second if isinstance(first, int) and first == 1 else first


def _shifting(start: Callable[[Any], Any]) -> Callable[..., Tensor]:
    """Return a function that begins each axis at a place that follows from its size."""

    def shifted(input: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:  # noqa: A002 - torch's name
        axes = range(input.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
        for axis in axes:
            first = start(input.shape[axis])
            parts = (input.narrow(axis, first, input.shape[axis] - first), input.narrow(axis, 0, first))
            input = torch.cat(parts, axis)  # noqa: A001
        return input

    return shifted
