"""Where a quantized model loses: told in every report on one, and alone where nothing else was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlc.artifact import write_model
from mlc.compare import Reference
from mlc.emulate import saturation_cost, saturation_proof
from mlc.explaining import Explanation
from mlc.explaining.explain import explain
from mlc.figures import counted
from mlc.judging import Report
from mlc.machine import machine
from mlc.pipeline.data import Datasets
from mlc.pipeline.layers import first_batches, probed
from mlc.pipeline.run import Run
from mlc.types import FLOAT

if TYPE_CHECKING:
    from mlc.data import Batch, Data
    from mlc.pipeline.shipping import Shipped
    from mlc.sources.original import Original
    from mlc.types import Arrays, Plan

EXPLAINED = "Explained: speed and accuracy were not measured, and nothing was written."
NOT_QUANTIZED = "No node is quantized: there is nothing to explain."
UNEXPLAINED = "{nodes} cannot be explained: nothing of the model has the names that it had before."


def samples_of(data: Data | None, kept: Sequence[Reference]) -> list[Batch]:
    """Return the first of the data, or where there are none the inputs that probe the model."""
    return probed(kept) if data is None else list(first_batches(data))


def explanation_of(
    unquantized: ir.Model, path: Path, sets: Datasets, kept: Sequence[Reference], run: Run, *, deep: bool = True
) -> Explanation | None:
    """Explain a written model against the graph that it was before it was quantized."""
    samples = sets.evaluation or sets.calibration or probed(kept)
    return explain(unquantized, path, samples, run.workspace, run.plan, deep=deep, target=run.recipe.target)


def _first_line(explanation: Explanation | None, plan: Plan | None) -> str:
    if explanation is not None:
        return EXPLAINED
    converted = 0 if plan is None else sum(entry.format != FLOAT for entry in plan.nodes)
    return UNEXPLAINED.format(nodes=counted(converted, "converted node")) if converted else NOT_QUANTIZED


def saturation_of(
    model: ir.Model, expected: Callable[[Arrays], Arrays], batches: Sequence[Batch], run: Run
) -> tuple[str, ...]:
    """Return what is proven of a model's product sums, and where that is not all, what processors without VNNI lose.

    ``expected`` gives the outputs of the original.
    """
    return (*saturation_proof(model), *saturation_cost(expected, model, batches, run.workspace))


def explained_only(found: Shipped, original: Original, run: Run) -> Report:
    """Return the report on a quantized model that is neither measured nor written."""
    assert found.unquantized is not None
    path = write_model(found.artifact.model, run.workspace.folder("explained"))
    explanation = explanation_of(found.unquantized, path, found.sets, found.references, run)
    samples = samples_of(found.sets.evaluation or found.sets.calibration, found.references)
    return Report(
        recipe=run.recipe,
        origin=found.artifact.origin,
        signature=found.artifact.signature,
        steps=found.artifact.steps,
        trials=(),
        shipped="",
        first_line=_first_line(explanation, run.plan),
        checks=found.checks,
        plan=run.plan,
        saturation=saturation_of(ir.load(path), original.run, samples, run),
        explanation=explanation,
        data=found.sets.described(),
        machine=machine(),
        notes=found.notes,
        seconds=run.seconds,
    )
