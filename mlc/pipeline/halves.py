"""Models in float16 as a GPU computes them, where what they are measured on is a CPU: that adds up in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlc.emulate import computes_half, rounded_half

if TYPE_CHECKING:
    import onnx_ir as ir

    from mlc.types import Target
    from mlc.workspace import Workspace

CPU = "cpu"

STRICT = (
    "accuracy and agreement are those of float16 as a GPU computes it, with every value rounded, or as this CPU does, "
    "whichever agrees less"
)


def as_a_gpu_computes(model: ir.Model, target: Target, workspace: Workspace) -> Path | None:
    """Return a file that rounds every value to float16 where a model computes in it; None where nothing is emulated."""
    if target.provider != CPU or not computes_half(model):
        return None
    return workspace.save(rounded_half(model), "half")
