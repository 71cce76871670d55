"""Into ONNX: an Original becomes an Artifact, compared with the original at every size that was run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module

import onnx_ir as ir

from mlc.artifact import Artifact, Origin
from mlc.compare import END_TOLERANCE, EXPORT_TOLERANCE, Check, Reference, compare, compare_end
from mlc.compare.decisions import decisions, with_outputs
from mlc.dims import traced_sizes
from mlc.errors import SourceError, TargetError
from mlc.exporting.translation import Translation
from mlc.figures import sizes_text
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.original import Original
from mlc.types import OutputSpec, Signature, Sizes, Target
from mlc.workspace import Workspace

HALF = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)

UNKNOWN = re.compile(r"\bu\d+\b")
"""What torch calls a size that follows from values."""


def export(
    original: Original, references: Iterable[Reference], workspace: Workspace, opset: int | None = None
) -> tuple[Artifact, tuple[Check, ...]]:
    """Return the original as ONNX, and one check for each reference. Raises SourceError where one differs.

    A torch module is written at ``opset``, 20 by default; an .onnx file keeps its own opset, IR version and interface.
    Raises UsageError where another opset than a file's own is asked for.
    """
    inputs = original.signature.inputs
    traced = traced_sizes(inputs, {name: array.shape for name, array in original.example.items()})
    translation = _model(original, traced, opset)
    model = translation.model
    written = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    origin = Origin(
        original.source, original.digest, translation.exporter, written, traced, (*original.notes, *translation.notes)
    )
    signature = Signature(inputs, _outputs(original, model))
    workspace.hold(model)
    checks = check(model, references, workspace)
    return Artifact({"model": model}, signature, origin), checks


def _model(original: Original, traced: Sizes, opset: int | None) -> Translation:
    exporter = import_module(f"mlc.exporting.{original.exporter}")
    translation: Translation = exporter.translate(original, traced, opset)
    return translation


def _outputs(original: Original, model: ir.Model) -> tuple[OutputSpec, ...]:
    """Return the outputs with the symbols that the exporter found where running left an axis unknown."""
    specs = []
    for spec, value in zip(original.signature.outputs, model.graph.outputs, strict=True):
        shape = list(value.shape) if value.shape is not None else []
        if len(shape) == len(spec.dims):
            dims = tuple(_axis(known, found) for known, found in zip(spec.dims, shape, strict=True))
            specs.append(replace(spec, dims=dims))
        else:
            specs.append(spec)
    return tuple(specs)


def _axis(known: int | str | None, found: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(found, int) or found.value is None:
        return known
    return None if UNKNOWN.search(found.value) else known if isinstance(known, str) else found.value


def check(model: ir.Model, references: Iterable[Reference], workspace: Workspace) -> tuple[Check, ...]:
    """Run a model at every reference and compare; raises SourceError for the first size at which it differs."""
    decided = decisions(model)
    deciding = dict.fromkeys(name for decision in decided.values() for name in decision.values)
    checks = []
    kept = tuple(references)
    try:
        with open_session(workspace.save(with_outputs(model, deciding), "export"), Target(), optimize=False) as session:
            for reference in kept:
                actual = session.run(reference.inputs)
                if reference.values:
                    tolerance = END_TOLERANCE
                    differences = compare_end(kept[0], reference, actual, tolerance, decisions=decided)
                else:
                    tolerance = EXPORT_TOLERANCE
                    differences = compare(reference.outputs, actual, tolerance, decisions=decided)
                checks.append(Check("export", reference.sizes, tolerance, differences, values=reference.values))
                _refuse(checks[-1])
    except TargetError as refused:
        half = sorted({str(dtype).lower() for dtype in _dtypes(model) if dtype in HALF})
        hint = f"it computes in {' and '.join(half)}: leave autocast and casts to it out of forward" if half else ""
        raise SourceError(f"the exported model does not run: {refused.message}", hint or refused.hint) from refused
    return tuple(checks)


def _dtypes(model: ir.Model) -> set[ir.DataType | None]:
    return {value.dtype for graph in model.graphs() for node in graph for value in node.outputs}


def _refuse(checked: Check) -> None:
    worst = max(checked.differences, key=lambda difference: (bool(difference), difference.error), default=None)
    if not worst:
        return
    raise SourceError(
        f"the exported model differs from the original at {sizes_text(checked.sizes)}"
        + (f" with {checked.values}" if checked.values else "")
        + f": {worst.reason}",
        "forward may compute otherwise at that size or for those values: narrow the dims, or make it one for all",
    )
