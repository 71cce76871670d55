"""One model through load, references and export, and once more on inputs of its own: what came of it, as a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mlc.artifact import Artifact
from mlc.compare import EXPORT_TOLERANCE, compare
from mlc.compare.decisions import decisions, with_outputs
from mlc.dims import named, smallest
from mlc.errors import MlcError, SourceError, foreign
from mlc.exporting import export
from mlc.figures import sizes_text
from mlc.pipeline.opset import export_opset
from mlc.probes import probe, references
from mlc.recipe import merge
from mlc.registry import schedule
from mlc.runtimes.cpu import capabilities
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.load import load
from mlc.sources.silence import silent
from mlc.types import Dim, InputSpec, Sizes, Target
from mlc.workspace import Workspace

if TYPE_CHECKING:
    from mlc.sources.original import Original

RIGHT, REFUSED, WRONG, CRASHED, TIMEOUT, UNBUILT, UNDESCRIBED = (
    "right", "refused", "wrong", "crashed", "timeout", "not built", "inputs not described",
)  # fmt: skip
OUTCOMES = (RIGHT, REFUSED, WRONG, CRASHED, TIMEOUT, UNBUILT, UNDESCRIBED)
"""The last two are no outcomes of an export: the tiny model does not exist, or nothing says what it takes."""

OTHER_SEED = 7
"""The seed of inputs that the export was not compared at."""


@dataclass(frozen=True)
class Subject:
    """A module with its inputs; integer inputs without a range of values need an example."""

    module: torch.nn.Module
    inputs: tuple[InputSpec, ...]
    sizes: Sizes


@dataclass(frozen=True)
class Row:
    """What came of one model; ``sentence`` is the error, ``hint`` what to do, or why an exporter was taken.

    ``opset`` is what was written, 0 where nothing was.
    """

    name: str
    outcome: str
    kind: str = ""
    attention: str = ""
    inputs: str = ""
    exporter: str = ""
    sentence: str = ""
    hint: str = ""
    seconds: float = 0.0
    opset: int = 0


def check(name: str, make: Callable[[], Subject]) -> Row:
    """Return the row of a model that is made here; what is no MlcError is raised, since it is a crash."""
    start = time.perf_counter()
    with silent():
        row = _row(name, make)
    return replace(row, seconds=round(time.perf_counter() - start, 1))


def _row(name: str, make: Callable[[], Subject]) -> Row:
    try:
        with foreign("making the model"):
            subject = make()
    except SourceError as failed:
        return Row(name, UNBUILT, sentence=failed.message)
    row = Row(name, REFUSED, type(subject.module).__name__, inputs=_inputs_text(subject.inputs))
    if not subject.inputs:
        return replace(row, outcome=UNDESCRIBED, sentence=f"{row.kind} has no input that the configuration describes")
    try:
        original = load(subject.module, subject.inputs, _example(subject))
    except MlcError as failed:
        return replace(row, outcome=_unloaded(failed.message), sentence=failed.message, hint=failed.hint)
    try:
        with Workspace() as workspace:
            return _exported(row, original, workspace)
    except MlcError as failed:
        return replace(row, sentence=failed.message, hint=failed.hint)


def _unloaded(message: str) -> str:
    """Return what a refusal to load means: of a module that fails on its example, the tiny size is to blame."""
    if "neither an example nor a spec" in message or "does not fit forward" in message:
        return UNDESCRIBED
    return UNBUILT if message.startswith("the module ") else REFUSED


def _exported(row: Row, original: Original, workspace: Workspace) -> Row:
    answers, _ = references(original, None, 0)
    specs = schedule(())
    opset = export_opset(merge(None, {"source": "python:"}), specs, original, capabilities(Target()))
    artifact, _ = export(original, answers, workspace, opset)
    difference = _difference(original, artifact, workspace)
    why = next((note for note in artifact.origin.notes if "since" in note and "written by" in note), "")
    outcome = WRONG if difference else RIGHT
    written = artifact.origin
    return replace(row, outcome=outcome, exporter=written.exporter, sentence=difference, hint=why, opset=written.opset)


def _difference(original: Original, artifact: Artifact, workspace: Workspace) -> str:
    """Return how the optimized model differs from the original on inputs that neither has seen, or nothing."""
    inputs = original.signature.inputs
    sizes = {name: smallest(dim, above=(dim.low + dim.high) // 2 - 1) for name, dim in named(inputs).items()}
    drawn = probe(inputs, sizes, {}, None, OTHER_SEED)
    decided = decisions(artifact.model)
    deciding = dict.fromkeys(value for decision in decided.values() for value in decision.values)
    with open_session(workspace.save(with_outputs(artifact.model, deciding), "other"), Target()) as session:
        actual = session.run(drawn)
    found = compare(original.run(drawn), actual, EXPORT_TOLERANCE, decisions=decided)
    return next((f"at {sizes_text(sizes)}: {each.reason}" for each in found if each), "")


def _example(subject: Subject) -> dict[str, torch.Tensor]:
    arrays = probe(subject.inputs, subject.sizes, {}, None, 0)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _inputs_text(inputs: Sequence[InputSpec]) -> str:
    return ", ".join(f"{spec.name}[{','.join(map(_axis_text, spec.dims))}]" for spec in inputs)


def _axis_text(dim: Dim) -> str:
    """Return the name of an axis that varies, or the size of one that does not, whether it has a name or none."""
    return dim.name if dim.name is not None and dim.low < dim.high else str(dim.low)
