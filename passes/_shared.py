"""What it costs to give one reader of a weight a weight of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc.fusion import array_of

if TYPE_CHECKING:
    import onnx_ir as ir

LIMIT = 1_000_000
"""The bytes by which a model may grow for one operator less."""


def stored_twice(weight: ir.Value, others: int) -> str | None:
    """Return why a weight that so many others read too cannot be changed for one reader alone, or None."""
    size = array_of(weight).nbytes
    if not (others or weight.is_graph_output()) or size <= LIMIT:
        return None
    return f"{weight.name} is read elsewhere and would be stored twice, {size:,} bytes"
