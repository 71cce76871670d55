"""Weights that a caller of a model could override, as constants: passes fold nothing that may come from outside."""

from __future__ import annotations

from dataclasses import replace

from mlc.artifact import Artifact
from mlc.rewriting.line import WEIGHTS_APART

NONE = "nothing to freeze: the model has no weight that a caller could override"


def frozen(artifact: Artifact) -> Artifact:
    """Return an artifact whose inputs with a default are inputs no more, and a note that names them.

    Of an .onnx file these are the initializers that are listed as inputs too; no other source has any.
    """
    (component,) = artifact.components
    model = artifact.model.clone()
    names = [value.name for value in model.graph.inputs if value.const_value is not None]
    kept = [value for value in model.graph.inputs if value.const_value is None]
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)
    model.ir_version = max(model.ir_version, WEIGHTS_APART)
    note = f"frozen, which a caller could override before: {', '.join(map(str, names))}" if names else NONE
    origin = replace(artifact.origin, notes=(*artifact.origin.notes, note))
    return replace(artifact, components={component: model}, origin=origin)
