"""Which opsets can be written, and that the one which was asked for was."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from mlc.errors import UsageError

OPSET = 20
"""What a model is written in where nothing else is asked for."""

NEWER = 23
"""The first opset with Attention, whose rows without a key are zeros as torch's are, with RMSNormalization and
RotaryEmbedding; weights of 4 bits in blocks are in it too (21)."""

LOWEST_OPSET = 18
"""The lowest opset that torch.onnx writes without a conversion downwards."""

HIGHEST_OPSET = onnx.defs.onnx_opset_version()
"""The highest that the installed onnx defines; exporters write none for an opset that they do not know."""


def checked_opset(asked: int | None) -> int:
    """Return the opset to write. Raises UsageError for one that no exporter writes."""
    if asked is None:
        return OPSET
    if not LOWEST_OPSET <= asked <= HIGHEST_OPSET:
        raise UsageError(
            f"opset {asked} cannot be written: the exporter writes {LOWEST_OPSET} to {HIGHEST_OPSET}",
            f"leave --opset out, or ask for one from {LOWEST_OPSET} to {HIGHEST_OPSET}",
        )
    return asked


def check_written(model: ir.Model, opset: int) -> None:
    """Raise UsageError where the exporter wrote another opset than was asked."""
    written = model.opset_imports.get("")
    if written is not None and written != opset:
        raise UsageError(
            f"opset {opset} cannot be written for this model: the exporter has no conversion to it",
            f"leave --opset out, or ask for another from {LOWEST_OPSET} on",
        )
