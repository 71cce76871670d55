"""The fastest artifact of a PyTorch model that keeps its accuracy on this machine, with proof."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
"""onnxruntime from 1.29 on reports its use over the network unless this is set before it is first imported."""

if TYPE_CHECKING:
    from mlc.api import compile, export, judge, load, measure, rewrite  # noqa: A004 - the word of the field
    from mlc.errors import MlcError

__all__ = ["MlcError", "compile", "export", "judge", "load", "measure", "rewrite"]

_ROOMS = {"MlcError": "mlc.errors"}


def __getattr__(name: str) -> Any:
    """Load the Python API when it is asked for: ``import mlc`` itself costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'mlc' has no attribute {name!r}")
    return getattr(import_module(_ROOMS.get(name, "mlc.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
