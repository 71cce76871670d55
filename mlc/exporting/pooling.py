"""``max_pool1d`` as a pooling of pictures of one row: torch.export fixes the length of what it pools itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch.nn import functional

from mlc.exporting.replaced import replaced


def pooling_rows() -> AbstractContextManager[None]:
    """Trace ``max_pool1d`` inside the block as ``max_pool2d`` over one row, unless its indices are asked for."""
    return replaced(functional, "max_pool1d", _over_rows)


def _over_rows(own: Callable[..., Any]) -> Callable[..., Any]:
    def max_pool1d(  # noqa: PLR0917 - torch's own signature
        input: Any,  # noqa: A002 - torch's name
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        if return_indices:
            return own(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        size, step, edge, apart = (_last(each) for each in (kernel_size, stride, padding, dilation))
        steps = (1, size if step is None else step)
        pooled = functional.max_pool2d(input.unsqueeze(-2), (1, size), steps, (0, edge), (1, apart), ceil_mode)
        return pooled.squeeze(-2)

    return max_pool1d


def _last(given: Any) -> Any:
    """Return the number for the one axis, of which torch takes a sequence too; an empty one is none."""
    if not isinstance(given, list | tuple):
        return given
    return given[-1] if given else None
