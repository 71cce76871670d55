"""The levels of ``torch.vmap``: nodes enter and leave them, and what is between holds tensors of another kind."""

from __future__ import annotations

import torch

from mlc.errors import SourceError, foreign
from mlc.exporting.errors import WITHOUT_VMAP, translation_error
from mlc.exporting.inserting import nodes_of
from mlc.exporting.writing import quiet


def is_level(node: torch.fx.Node) -> bool:
    """Whether a node enters or leaves a level."""
    return getattr(node.target, "__module__", "") == "torch._functorch.predispatch"


def without_levels(program: torch.export.ExportedProgram, opset: int) -> torch.export.ExportedProgram:
    """Return the program with an axis for each level, so that calls can be put into it; itself where there is none.

    Raises SourceError with the user's line. Gradients are off as they were for the trace.
    """
    if not any(map(is_level, nodes_of(program))):
        return program
    try:
        with torch.no_grad(), quiet(), foreign("torch.export"):
            lowered: torch.export.ExportedProgram = program.run_decompositions({})
    except SourceError as failed:
        told = translation_error(failed.__cause__ or failed, program, opset)
        raise SourceError(told.message, WITHOUT_VMAP) from failed.__cause__
    return lowered
