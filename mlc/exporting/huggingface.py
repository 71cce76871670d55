"""A model of transformers into ONNX: as any torch module, and where that fails by the library's own exporter.

The library's exporter replaces for its while what torch.export or torch.onnx cannot take: loops over experts, masks
of attention, operators without a counterpart. What it writes is compared with the original as any other export.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common

from mlc.errors import SourceError, foreign
from mlc.exporting import torch as plain
from mlc.exporting.errors import speaks_of_sizes, tracing_error
from mlc.exporting.exact import exact_numbers
from mlc.exporting.guards import GuardLog
from mlc.exporting.masks import no_idle_masks
from mlc.exporting.opset import check_written, checked_opset
from mlc.exporting.settled import settled
from mlc.exporting.shapes import dynamic_shapes, traced_note, tracing_sizes, unrelated_shapes
from mlc.exporting.sides import doubted_sizes
from mlc.exporting.tidy import tidy
from mlc.exporting.translation import Doubt, Translation, doubt_note
from mlc.exporting.writing import quiet
from mlc.probes import probe
from mlc.sources.huggingface.library import offline
from mlc.sources.torch.frozen import frozen
from mlc.sources.torch.module import TorchOriginal
from mlc.types import OutputSpec, Sizes


def translate(original: TorchOriginal, traced: Sizes, opset: int | None) -> Translation:
    """Return the model as an ONNX model of the given opset, 20 by default; a note says why if transformers wrote it.

    Raises SourceError where neither can write it, UsageError for an opset that cannot be written.
    """
    try:
        with no_idle_masks():
            return plain.translate(original, traced, opset)
    except SourceError as failed:
        alone = failed
    library = import_module("transformers")
    try:
        return _by_transformers(library, original, traced, checked_opset(opset), alone)
    except ImportError as older:
        raise alone from older
    except SourceError as failed:
        also = type(failed.__cause__ or failed).__name__
        raise SourceError(alone.message, f"{alone.hint}; the exporter of transformers failed too: {also}") from failed


@torch.inference_mode(mode=False)
def _by_transformers(
    library: Any, original: TorchOriginal, traced: Sizes, opset: int, alone: SourceError
) -> Translation:
    inputs, outputs = original.signature.inputs, original.signature.outputs
    sizes = tracing_sizes(inputs, traced)
    model, doubt = _traced(library, original, sizes, opset)
    check_written(model, opset)
    _select(model, outputs)
    weights = {*original.module.state_dict(), *dict(original.module.named_parameters(remove_duplicate=False))}
    tidy(model, inputs, outputs, "", weights=weights, doubted=False)
    notes = [f"written by the exporter of transformers, since torch.onnx alone could not: {alone.message}"]
    notes += (*traced_note(sizes, traced), *doubt_note(doubt))
    versions = f"transformers {library.__version__}, torch {torch.__version__.partition('+')[0]}"
    return Translation(model, f"transformers.exporters.OnnxExporter {versions}", tuple(notes), doubt)


def _traced(library: Any, original: TorchOriginal, sizes: Sizes, opset: int) -> tuple[ir.Model, Doubt | None]:
    """Return what the library's exporter writes, with a doubt where guards had to be put off, as in the plain way."""
    inputs = original.signature.inputs
    log = GuardLog()
    try:
        return _written(library, original, sizes, opset, log), None
    except SourceError as failed:
        cause = failed.__cause__ or failed
        if not speaks_of_sizes(str(cause)) or doubted_sizes(log, inputs, sizes) is None:
            raise
        again = GuardLog()
        model = _written(library, original, sizes, opset, again, put_off=True)
        doubted = doubted_sizes(again, inputs, sizes)
        if doubted is None:
            raise
        return model, Doubt(doubted, tracing_error(cause, inputs, log))


def _written(
    library: Any, original: TorchOriginal, sizes: Sizes, opset: int, log: GuardLog, *, put_off: bool = False
) -> ir.Model:
    exporters = import_module("transformers.exporters")
    inputs = original.signature.inputs
    arrays = probe(inputs, sizes, original.example, None, 0)
    tensors = {spec.name: torch.from_numpy(arrays[spec.name]) for spec in inputs}
    axes = unrelated_shapes(inputs, arrays) if put_off else dynamic_shapes(inputs)
    shapes = {spec.name: one for spec, one in zip(inputs, axes, strict=True)}
    with (
        offline(library), quiet(), frozen(original.module), settled(), exact_numbers(), log.listening(),
        foreign("the exporter of transformers"),
    ):  # fmt: skip
        config = exporters.OnnxConfig(
            dynamic_shapes=shapes, opset_version=opset, prefer_deferred_runtime_asserts_over_guards=put_off
        )
        program: ir.Model = exporters.OnnxExporter().export(original.module, tensors, config).program
    return program


def _select(model: ir.Model, outputs: tuple[OutputSpec, ...]) -> None:
    """Keep the outputs of the signature, in its order: tensors inside of objects, such as caches, are written too."""
    written = {value.name: value for value in model.graph.outputs}
    missing = [output.name for output in outputs if output.name not in written]
    if missing:
        raise SourceError(f"the exporter of transformers wrote no output {missing[0]}")
    model.graph.outputs[:] = [written[output.name] for output in outputs]
    common.RemoveUnusedNodesPass()(model)
