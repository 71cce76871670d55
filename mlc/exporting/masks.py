"""Masks of transformers that mask nothing: left out of a trace as they are when the model runs.

A model that is not given a mask makes one of padding all the same while it is traced. It is all true, unless a layer
attends to its neighbours alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from mlc.exporting.replaced import replaced

NAME = "_ignore_bidirectional_mask_sdpa"
"""The function that says whether a mask may be left out: never, while torch.export traces."""


def no_idle_masks() -> AbstractContextManager[None]:
    """Leave out the mask of attention to all of a sequence without padding, inside the block."""
    masking: Any = None
    with suppress(ImportError):
        masking = importlib.import_module("transformers.masking_utils")
    return replaced(masking, NAME, _without_idle) if hasattr(masking, NAME) else nullcontext()


def _without_idle(own: Callable[..., Any]) -> Callable[..., Any]:
    def ignored(padding_mask: Any, kv_length: Any, local_attention_size: Any = None) -> Any:
        whole = padding_mask is None and local_attention_size is None
        return whole or own(padding_mask, kv_length, local_attention_size)

    return ignored
