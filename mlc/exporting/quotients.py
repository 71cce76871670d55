"""``torch.div`` of a size by a number: a size again in a trace, not a tensor whose value nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from mlc.exporting.replaced import replaced


def quotients_of_sizes() -> AbstractContextManager[None]:
    """Trace ``torch.div(size, number, rounding_mode=...)`` inside the block as ``size // number``.

    Both ways of rounding give the same of sizes, which are not negative; of tensors it is torch's own.
    """
    return replaced(torch, "div", _of_sizes)


def _of_sizes(own: Callable[..., Any]) -> Callable[..., Any]:
    def div(input: Any, other: Any, *, rounding_mode: str | None = None, **kwargs: Any) -> Any:  # noqa: A002 - torch's name
        whole = isinstance(input, torch.SymInt) and isinstance(other, int) and other > 0
        if whole and rounding_mode is not None and not kwargs:
            return input // other
        return own(input, other, rounding_mode=rounding_mode, **kwargs)

    return div
