"""What an exporter gives."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Translation:
    """A model in ONNX, not yet compared with its original: who wrote it, and what the user should know."""

    model: ir.Model
    exporter: str
    notes: tuple[str, ...] = ()
