"""How values lie in memory, which no graph of ONNX knows: torch.fx asks it of every value, and guards the answer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from torch.fx.experimental import proxy_tensor

from mlc.exporting.replaced import replaced


def without_layouts() -> AbstractContextManager[None]:
    """Trace inside the block without asking whether values are contiguous, only to write it beside each in the graph.

    Whether what is cut from a padded image is so hangs on its size: each answer would be a way of its own.
    """
    return replaced(proxy_tensor, "_extract_tensor_metadata", lambda own: partial(own, include_contiguity=False))
