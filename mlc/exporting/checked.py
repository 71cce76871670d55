"""Into ONNX: an Original becomes an Artifact, compared with the original at every size that was run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, cast

import onnx_ir as ir

from mlc.artifact import Artifact, Origin, Way
from mlc.compare import END_TOLERANCE, EXPORT_TOLERANCE, Check, Reference, compare, compare_end
from mlc.compare.decisions import decisions, with_outputs
from mlc.dims import traced_sizes
from mlc.errors import OutputError, SourceError, TargetError
from mlc.exporting.cache import Cache
from mlc.exporting.draws import refuse_random
from mlc.exporting.observed import is_contradicted, observed
from mlc.exporting.tidy import correct_shapes
from mlc.exporting.translation import Doubt, Translation
from mlc.figures import sizes_text
from mlc.fusion import opset_of
from mlc.probes import answer
from mlc.runtimes.onnxruntime import open_session
from mlc.sources.original import Original
from mlc.types import OutputSpec, Signature, Sizes, Target
from mlc.workspace import Workspace

if TYPE_CHECKING:
    from mlc.exporting.quantized.check import CodeJudge
    from mlc.sources.torch.module import TorchOriginal

NOT_KEPT = "the export was not kept in the cache"

NO_KERNEL = "Could not find an implementation"
"""What the runtime says of an operator that it has not, or not of these dtypes."""

HALF = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)

FROM_CACHE = "the export came from the cache of an earlier run; --no-cache makes it anew"

FILES = "onnx_file"
"""The exporter of .onnx files, whose shapes are their own."""

UNKNOWN = re.compile(r"\b(u|unk__)\d+\b")
"""What torch calls a size that follows from values, and ONNX one that it cannot infer."""


class DifferenceError(SourceError):
    """The exported model gives other numbers than the original at some sizes, or none."""

    def __init__(self, message: str, hint: str, sizes: Sizes) -> None:
        super().__init__(message, hint)
        self.sizes = sizes


def export(
    original: Original,
    references: Iterable[Reference],
    workspace: Workspace,
    opset: int | None = None,
    *,
    cache: Cache | None = None,
) -> tuple[Artifact, tuple[Check, ...]]:
    """Return the original as ONNX, and one check for each reference. Raises SourceError where one differs.

    A torch module is written at ``opset``, 20 by default; an .onnx file keeps its own opset, IR version and interface.
    An export from the ``cache`` is compared exactly as a fresh one is, and made anew where it differs.
    Raises UsageError where another opset than a file's own is asked for.
    """
    kept = tuple(references)
    traced = traced_sizes(original.signature.inputs, {name: array.shape for name, array in original.example.items()})
    key, unknown = _key(original, traced, opset) if cache is not None else (None, ())
    if cache is None or key is None:
        return _fresh(original, traced, opset, kept, workspace, unknown)[1]
    found = cache.find(key)
    if found is not None:
        try:
            return _checked(original, _noted(found, FROM_CACHE), traced, kept, workspace)
        except (SourceError, OutputError):  # it computes otherwise, or another process has taken it away
            cache.remove(key)
    made, exported = _fresh(original, traced, opset, kept, workspace)
    refused = cache.store(key, made)
    if not refused:
        return exported
    artifact, checks = exported
    origin = replace(artifact.origin, notes=(*artifact.origin.notes, f"{NOT_KEPT}: {refused}"))
    return replace(artifact, origin=origin), checks


def _fresh(  # noqa: PLR0917 - one place calls it
    original: Original,
    traced: Sizes,
    opset: int | None,
    kept: Sequence[Reference],
    workspace: Workspace,
    notes: Sequence[str] = (),
) -> tuple[Translation, tuple[Artifact, tuple[Check, ...]]]:
    """Return a new translation and what it becomes, compared with the original."""
    exporter = import_module(f"mlc.exporting.{original.exporter}")
    made = _with_ways(_noted(exporter.translate(original, traced, opset), *notes))
    return made, _checked(original, made, traced, kept, workspace)


def _key(original: Original, traced: Sizes, opset: int | None) -> tuple[str | None, tuple[str, ...]]:
    """Return under which key an export is kept; where there is none for a torch module, a note why."""
    if not hasattr(original, "module"):
        return None, ()
    from mlc.exporting.fingerprint import fingerprint  # an .onnx file needs no torch

    try:
        return fingerprint(cast("TorchOriginal", original), traced, opset), ()
    except SourceError as unknown:
        return None, (f"{NOT_KEPT}: {unknown}",)


def _with_ways(made: Translation) -> Translation:
    """Return a translation with the way it was made: the first, or the second where guards had to be put off."""
    name = "as it is"
    put_off = (Way(name, made.doubt.refused.message), Way(f"{name}, guards put off")) if made.doubt else (Way(name),)
    return replace(made, ways=put_off)


def _noted(translation: Translation, *notes: str) -> Translation:
    return replace(translation, notes=(*translation.notes, *notes))


def _checked(
    original: Original, translation: Translation, traced: Sizes, kept: Sequence[Reference], workspace: Workspace
) -> tuple[Artifact, tuple[Check, ...]]:
    """Return a translation as an artifact, compared with its original."""
    model = translation.model
    written = opset_of(model)
    notes = (*original.notes, *translation.notes)
    origin = Origin(original.source, original.digest, translation.exporter, written, traced, notes, translation.ways)
    doubt = translation.doubt
    answers = (*kept, *_both_ways(original, translation, kept), *_answers(original, doubt, kept))
    outputs = observed(original.signature, answers)
    if original.exporter != FILES and (
        (doubt is not None and doubt.broken) or is_contradicted(model, original.signature, answers)
    ):
        correct_shapes(model, outputs, doubted=True)
    signature = Signature(original.signature.inputs, _outputs(outputs, model))
    workspace.hold(model)
    refuse_random(model, kept, workspace)
    judge = _code_judge(original, model, workspace)
    try:
        checks = check(model, answers, workspace, judge)
    except DifferenceError as failed:
        if doubt is None or not doubt.explains(failed.sizes):
            raise _told_why(failed, original) from failed
        raise doubt.refused from failed
    if judge is not None and judge.moved:
        origin = replace(origin, notes=(*origin.notes, judge.told()))
    return Artifact({"model": model}, signature, origin), checks


def _told_why(failed: DifferenceError, original: Original) -> DifferenceError:
    """Return a difference with the line at which forward asks whether it is traced, if it has one."""
    if not hasattr(original, "module"):
        return failed
    from mlc.exporting.traced import asks_whether_traced  # an .onnx file needs no torch

    line = asks_whether_traced(cast("TorchOriginal", original).module)
    if not line:
        return failed
    hint = f"forward asks whether it is traced, and may then compute otherwise, at {line}"
    return DifferenceError(failed.message, hint, failed.sizes)


def _answers(original: Original, doubt: Doubt | None, kept: Sequence[Reference]) -> Iterator[Reference]:
    """Yield the original's answers at sizes for which the trace cannot answer, and which are not compared anyhow."""
    for sizes in doubt.sizes if doubt is not None else ():
        if all(reference.sizes != sizes for reference in kept):
            yield answer(original, sizes, None, 0)


def _both_ways(original: Original, made: Translation, kept: Sequence[Reference]) -> tuple[Reference, ...]:
    """Return answers where lines that branch on values take the ways that they do not take anyhow."""
    if not made.asked and not made.checks:
        return ()
    from mlc.exporting.taken import both_ways  # an .onnx file needs no torch

    return both_ways(original, made.asked, kept, made.checks)


def _code_judge(original: Original, model: ir.Model, workspace: Workspace) -> CodeJudge | None:
    """Return what judges the quantizers that a module brought with it, or None where there are none."""
    noted = getattr(original, "noted", None)
    if noted is None:
        return None
    from mlc.exporting.quantized.check import CodeJudge, sites_of

    sites = sites_of(model)
    return CodeJudge(noted, model, sites, workspace) if sites else None


def _outputs(outputs: Sequence[OutputSpec], model: ir.Model) -> tuple[OutputSpec, ...]:
    """Return the outputs with the symbols that the exporter found where running left an axis unknown."""
    specs = []
    for spec, value in zip(outputs, model.graph.outputs, strict=True):
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


def check(
    model: ir.Model, references: Iterable[Reference], workspace: Workspace, judge: CodeJudge | None = None
) -> tuple[Check, ...]:
    """Run a model at every reference and compare; raises SourceError for the first size at which it differs.

    ``judge`` looks at every quantizer of a module, and excuses outputs that differ since a code fell to the other side
    of an edge.
    """
    decided = decisions(model)
    deciding = dict.fromkeys(name for decision in decided.values() for name in decision.values)
    checks = []
    kept = tuple(references)
    sizes: Sizes = {}
    try:
        with open_session(workspace.save(with_outputs(model, deciding), "export"), Target(), optimize=False) as session:
            for reference in kept:
                sizes = reference.sizes
                actual = session.run(reference.inputs)
                if reference.values:
                    tolerance = END_TOLERANCE
                    differences = compare_end(kept[0], reference, actual, tolerance, decisions=decided)
                else:
                    tolerance = EXPORT_TOLERANCE
                    differences = compare(reference.outputs, actual, tolerance, decisions=decided)
                if judge is not None:
                    differences = judge.judged(kept[0], reference, differences, tolerance)
                checks.append(Check("export", reference.sizes, tolerance, differences, values=reference.values))
                _refuse(checks[-1])
    except TargetError as refused:
        dtypes = set(_dtypes(model))
        half = sorted({str(dtype).lower() for dtype in dtypes if dtype in HALF})
        hint = f"it computes in {' and '.join(half)}: leave autocast and casts to it out of forward" if half else ""
        if ir.DataType.DOUBLE in dtypes and NO_KERNEL in refused.message:
            hint = "it computes in float64, in which the runtime lacks some operators: give it as module.float()"
        message = f"the exported model does not run: {refused.message}"
        raise DifferenceError(message, hint or refused.hint, sizes) from refused
    return tuple(checks)


def _dtypes(model: ir.Model) -> set[ir.DataType | None]:
    return {value.dtype for graph in model.graphs() for node in graph for value in node.outputs}


def _refuse(checked: Check) -> None:
    worst = max(checked.differences, key=lambda difference: (bool(difference), difference.error), default=None)
    if not worst:
        return
    at = sizes_text(checked.sizes) + (f" with {checked.values}" if checked.values else "")
    raise DifferenceError(
        f"the exported model differs from the original at {at}: {worst.reason}",
        "forward may compute otherwise at that size or for those values: narrow the dims, or make it one for all",
        checked.sizes,
    )
