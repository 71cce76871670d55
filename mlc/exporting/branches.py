"""Branches of ``torch.cond``: torch compiles them to find the weights that they read, and what varies in them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import torch

from mlc.exporting.replaced import replaced


def compiled_branches() -> AbstractContextManager[None]:
    """Trace ``torch.cond`` inside the block as torch does, where all else that is compiled runs as it was written."""
    return replaced(torch, "cond", _compiled)


def _compiled(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def cond(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():  # a branch in a branch
            return own(*args, **kwargs)
        with torch.compiler.set_stance("default"):
            return own(*args, **kwargs)

    return cond
