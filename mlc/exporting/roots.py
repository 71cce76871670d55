"""Roots and logarithms of sizes: Python's own give a number, and with it fix the size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from mlc.exporting.replaced import replaced


@contextmanager
def roots_of_sizes() -> Iterator[None]:
    """Trace ``math.sqrt``, ``math.log`` and ``math.log2`` of a size inside the block as what varies with it.

    A root is a fraction, as Python computes it; torch has no fraction that is a logarithm, but tensors.
    """
    with (
        replaced(math, "sqrt", _of_size(lambda size: size**0.5)),
        replaced(math, "log2", _of_size(lambda size: _number(_double(size).log2()))),
        replaced(math, "log", _of_size(lambda size: _number(_double(size).log()))),
    ):
        yield


def _of_size(computed: Callable[[Any], Any]) -> Callable[[Any], Callable[..., Any]]:
    def replacement(own: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(own)
        def function(number: Any, *base: Any) -> Any:
            return computed(number) if isinstance(number, torch.SymInt) and not base else own(number, *base)

        return function

    return replacement


def _double(size: Any) -> torch.Tensor:
    return torch.scalar_tensor(size, dtype=torch.float64)


def _number(logarithm: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the dtype that a number of Python makes of integers; other dtypes it leaves as they are."""
    return logarithm.to(torch.get_default_dtype())
