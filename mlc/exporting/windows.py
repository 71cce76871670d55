"""Windows of a signal by their formulas: torch fixes how long they are, and torch.onnx has another one of Hamming."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlc.exporting.replaced import replaced

WRONG = "hamming_window"
"""Which window torch.onnx writes otherwise, of a number too."""


@contextmanager
def windows() -> Iterator[None]:
    """Trace the windows of torch inside the block for any length; that of Kaiser, which is no sum, for a number."""
    with ExitStack() as stack:
        for name, shape in (
            ("hann_window", lambda: _cosines(0.5, 0.5)),
            (WRONG, lambda alpha=0.54, beta=0.46: _cosines(alpha, beta)),
            ("blackman_window", lambda: _cosines(0.42, 0.5, 0.08)),
            ("bartlett_window", lambda: _triangle),
        ):
            stack.enter_context(replaced(torch, name, _of(shape, always=name == WRONG)))
        stack.enter_context(replaced(torch, "kaiser_window", _kaiser))
        yield


def _of(shape: Callable[..., Callable[[Tensor], Tensor]], *, always: bool) -> Callable[[Any], Callable[..., Tensor]]:
    """Return what makes a window of a shape, of places from 0 to 1, where its length varies or ``always``."""

    def replacement(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(own)
        def window(window_length: Any, periodic: bool = True, *numbers: float, **options: Any) -> Tensor:
            if not isinstance(window_length, torch.SymInt) and not always:
                return own(window_length, periodic, *numbers, **options)
            names = {name: options.pop(name) for name in ("alpha", "beta") if name in options}
            dtype = options.get("dtype") or torch.get_default_dtype()
            places = torch.arange(window_length, dtype=torch.float64, device=options.get("device"))
            count = torch.ones_like(places).sum()
            made = shape(*numbers, **names)(places / (count if periodic else count - 1).clamp(min=1))
            return torch.where(count == 1, torch.ones_like(made), made).to(dtype)

        return window

    return replacement


def _cosines(*parts: float) -> Callable[[Tensor], Tensor]:
    """Return ``a0 - a1 cos(2 pi p) + a2 cos(4 pi p)``."""
    signed = [(-1) ** k * part for k, part in enumerate(parts)]
    return lambda places: torch.stack([a * torch.cos(2 * math.pi * k * places) for k, a in enumerate(signed)]).sum(0)


def _triangle(places: Tensor) -> Tensor:
    return 1 - (2 * places - 1).abs()


def _kaiser(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(own)
    def kaiser_window(window_length: Any, periodic: bool = True, beta: float = 12.0, **options: Any) -> Tensor:
        if isinstance(window_length, torch.SymInt):
            return own(window_length, periodic, beta, **options)
        more = int(periodic and window_length > 1)
        made = np.kaiser(window_length + more, beta)[:window_length]
        return torch.tensor(made.tolist(), dtype=options.get("dtype") or torch.get_default_dtype())

    return kaiser_window
