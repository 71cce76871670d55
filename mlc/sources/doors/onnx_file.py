"""An .onnx file."""

from __future__ import annotations

from pathlib import Path

from mlc.errors import UsageError
from mlc.sources.asked import Asked
from mlc.sources.original import Original


def opens(asked: Asked) -> bool:
    """Whether the source is written as an .onnx file."""
    return asked.reference.lower().endswith(".onnx")


def load(asked: Asked) -> Original:
    """Return the file as an Original. Raises UsageError where weights are named for it."""
    if asked.weights is not None:
        raise UsageError("an .onnx file has its own weights", f"write {asked.reference}")
    from mlc.sources.onnx.file import OnnxOriginal

    return OnnxOriginal(Path(asked.reference), asked.inputs, asked.example)
