"""Optimizers of the runtime that may hurt: measured with and without, and switched off where that is faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from mlc.artifact import Artifact
from mlc.fusion import producer
from mlc.judging import compared
from mlc.measuring import Trial
from mlc.types import Target

OPTION = "optimization.disable_specified_optimizers"
"""The session entry by which onnxruntime leaves optimizers out, by name; it does not travel inside the file."""

SKIP = "SkipLayerNormFusion"
"""Joins an Add and the LayerNormalization behind it, whose kernel on the CPU is slower than the two."""

WITHOUT = f" without {SKIP}"


def without_optimizers(models: Mapping[str, Artifact], target: Target) -> dict[str, Artifact]:
    """Return the models, and the last once more without what may hurt it, if it has a place for that."""
    given = dict(target.options)
    last, artifact = list(models.items())[-1]
    if target.runtime != "onnxruntime" or target.provider != "cpu" or OPTION in given or not _joined(artifact.model):
        return dict(models)
    options = {**artifact.session_options, OPTION: SKIP}
    return {**models, f"{last}{WITHOUT}": replace(artifact, session_options=options)}


def settled(trials: Sequence[Trial], chosen: str) -> str:
    """Return what ships of a model and its twin without an optimizer, when one of them was chosen.

    The twin ships where its whole interval lies beyond the model's, or where the model itself is not faster than the
    baseline: an option that the file does not carry has to earn its place.
    """
    by_name = {trial.candidate.name: trial for trial in trials}
    plain = chosen.removesuffix(WITHOUT)
    model, twin = by_name[plain].latency, by_name.get(f"{plain}{WITHOUT}")
    if twin is None or twin.latency is None or model is None:
        return plain
    clear = twin.latency.speedup.low > model.speedup.high
    needed = chosen != plain and compared(model) != "faster" and compared(twin.latency) == "faster"
    return twin.candidate.name if clear or needed else plain


def _joined(model: ir.Model) -> bool:
    """Whether a LayerNormalization reads the sum of two values: what the optimizer looks for."""
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "LayerNormalization" and producer(node.inputs[0], "Add") is not None:
                return True
    return False
