"""Functions that move or fill elements, of which a trace fixes sizes, or which torch.onnx has no words for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from mlc.exporting.replaced import replaced


@contextmanager
def rearranging() -> Iterator[None]:
    """Trace ``take_along_dim``, ``tensor_split``, ``roll``, ``fill_diagonal_`` and both shifts of spectra by others."""
    with (
        replaced(torch, "take_along_dim", lambda _own: _take_along_dim),
        replaced(torch.fft, "fftshift", lambda _own: _shifting(lambda size: size - size // 2)),
        replaced(torch.fft, "ifftshift", lambda _own: _shifting(lambda size: size // 2)),
        replaced(Tensor, "fill_diagonal_", _fill_diagonal),
        replaced(Tensor, "tensor_split", _tensor_split),
        replaced(torch, "tensor_split", _tensor_split),
        replaced(Tensor, "roll", _roll),
        replaced(torch, "roll", _roll),
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


def _roll(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def roll(input: Tensor, shifts: Any, dims: Any = ()) -> Tensor:  # noqa: A002 - torch's name
        moves, axes = ([*each] if isinstance(each, tuple | list) else [each] for each in (shifts, dims))
        if not any(isinstance(move, torch.SymInt) for move in moves) or len(moves) != len(axes):
            return own(input, shifts, dims)
        for move, axis in zip(moves, axes, strict=True):
            size = input.shape[axis]
            if isinstance(size, int) and size == 0:
                continue
            first = size - move % size
            input = torch.cat([input.narrow(axis, first, size - first), input.narrow(axis, 0, first)], axis)  # noqa: A001
        return input

    return roll


def _tensor_split(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def tensor_split(input: Tensor, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - torch's name
        given = {**dict(zip(("indices_or_sections", "dim"), args, strict=False)), **kwargs}
        count, axis = given.get("indices_or_sections", given.get("sections")), given.get("dim", 0)
        size: Any = input.shape[axis] if input.ndim else 0
        if not isinstance(count, int) or isinstance(size, int):
            return own(input, *args, **kwargs)
        lengths = [(size + (count - 1 - place)) // count for place in range(count)]  # the first parts have one more
        starts = itertools.accumulate(lengths, initial=0)
        return tuple(input.narrow(axis, start, length) for start, length in zip(starts, lengths, strict=False))

    return tensor_split


def _fill_diagonal(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def fill_diagonal_(self: Tensor, fill_value: float, wrap: bool = False) -> Tensor:
        if self.ndim != 2 or wrap:  # noqa: PLR2004
            return own(self, fill_value, wrap)
        rows, columns = (torch.arange(size, device=self.device) for size in self.shape)
        return self.masked_fill_(rows[:, None] == columns, fill_value)

    return fill_diagonal_


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
