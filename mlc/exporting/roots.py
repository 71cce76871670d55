"""Roots, logarithms and powers of sizes: Python's own give a number, and with it fix the size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch

from mlc.exporting.replaced import replaced

TENSORS: dict[str, Callable[..., Any]] = {
    name: getattr(torch, name) for name in ("cos", "exp", "log", "log10", "log1p", "log2", "sin")
}
"""Of which torch has no fraction: functions of numbers by those of tensors."""


@contextmanager
def roots_of_sizes() -> Iterator[None]:
    """Trace functions of ``math`` inside the block, of a size or a fraction of sizes, as what varies with it.

    A root is a fraction, as Python computes it; torch has no fraction that is a logarithm, but tensors.
    """
    with ExitStack() as stack:
        stack.enter_context(replaced(math, "sqrt", _of_size(lambda size: size**0.5)))
        for name, function in TENSORS.items():
            stack.enter_context(replaced(math, name, _of_size(_by_tensor(function))))
        yield


def _by_tensor(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a size, and of the base of a logarithm where one is given."""

    def computed(size: Any, *base: float) -> torch.Tensor:
        found = function(_double(size))
        return _number(found / math.log(*base) if base else found)

    return computed


def _of_size(computed: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    def replacement(own: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(own)
        def function(number: Any, *base: Any) -> Any:
            return computed(number, *base) if isinstance(number, torch.SymInt | torch.SymFloat) else own(number, *base)

        return function

    return replacement


def _double(size: Any) -> torch.Tensor:
    return torch.scalar_tensor(size, dtype=torch.float64)


def _number(logarithm: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the dtype that a number of Python makes of integers; other dtypes it leaves as they are."""
    return logarithm.to(torch.get_default_dtype())
