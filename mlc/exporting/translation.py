"""What an exporter gives."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mlc.artifact import Way
from mlc.errors import SourceError
from mlc.figures import sizes_text
from mlc.types import Sizes


@dataclass(frozen=True)
class Doubt:
    """Sizes at which a model is compared, since its trace cannot answer there, and what to say where it differs.

    ``broken`` are all the sizes for which it cannot, of the dims that they speak of.
    """

    sizes: tuple[Sizes, ...]
    refused: SourceError
    broken: tuple[Sizes, ...] = ()

    def explains(self, sizes: Sizes) -> bool:
        """Whether a difference at these sizes is what was doubted."""
        return sizes in self.sizes or any(one.items() <= sizes.items() for one in self.broken)


@dataclass(frozen=True)
class Translation:
    """A model in ONNX, not yet compared with its original: who wrote it, and what the user should know.

    ``asked`` are lines that branch on values, of which the trace took one way for both; ``checks`` are those that raise
    on the other way.
    """

    model: ir.Model
    exporter: str
    notes: tuple[str, ...] = ()
    doubt: Doubt | None = None
    ways: tuple[Way, ...] = ()
    asked: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()


def doubt_note(doubt: Doubt | None, ways: int = 1) -> tuple[str, ...]:
    """Return a note where what torch takes for granted of sizes was put off, and forward traced in so many ways."""
    if doubt is None:
        return ()
    at = ", ".join(sizes_text(sizes) for sizes in doubt.sizes)
    held = f"at all legal sizes but those compared one by one: {at}" if at else "at all legal sizes"
    if ways > 1:
        held = f"in one of {ways} traces at all legal sizes, the graph of one compared at those of the others: {at}"
    return (f"traced with guards put off, which hold {held}, since otherwise {doubt.refused.message}",)
