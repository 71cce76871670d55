"""``module.to(dtype)`` in forward: where the module has that dtype already, it is no change in a trace either."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from mlc.exporting.replaced import replaced


def settled() -> AbstractContextManager[None]:
    """Return a module as it is from ``to`` inside the block, where nothing of it would change.

    torch would put new tensors in the place of its weights all the same, which cannot be done while they are traced.
    """
    return replaced(nn.Module, "to", _unless_settled)


def _unless_settled(own: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device, dtype, _, layout = _asked(*args, **kwargs)
        tensors = [*self.parameters(), *self.buffers()]
        if layout is None and all(_has(tensor, device, dtype) for tensor in tensors):
            return self
        return own(self, *args, **kwargs)

    return to


def _asked(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Return device, dtype, whether to copy at once, and memory format, as torch itself reads them."""
    return tuple(torch._C._nn._parse_to(*args, **kwargs))  # noqa: SLF001


def _has(tensor: torch.Tensor, device: torch.device | None, dtype: torch.dtype | None) -> bool:
    moves = device is not None and tensor.device != device
    changes = dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype
    return not (moves or changes)
