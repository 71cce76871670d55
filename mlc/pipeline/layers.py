"""A written model against its source value by value: where the two part, and which values are worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mlc.compare import EXPORT_TOLERANCE, Reference
from mlc.data import Batch, Data
from mlc.errors import UsageError
from mlc.exporting import export
from mlc.figures import counted, decibels, error
from mlc.layer_errors import LayerError, Layers, compare_layers
from mlc.pipeline.run import Run
from mlc.sources.onnx.file import OnnxOriginal
from mlc.sources.original import Original

SAMPLES = 64
"""So many samples of the data suffice, and the batch that they end in."""

PROBES = 2
"""So many inputs that probe models take their place where there are no data: at the traced sizes and the smallest."""


def compared_layers(
    baseline: Path, model: Path, kept: Sequence[Reference], run: Run, *, data: Data | None, floor: float | None
) -> tuple[tuple[LayerError, ...], tuple[str, ...]]:
    """Compare the values of a written model with those of an export of its source, over the first of the data.

    Without data the inputs that probe the models are taken. Returns how far each value is off, and what is to be said:
    the first that diverges, how many values were compared, and how many have no counterpart. ``floor`` is the ratio in
    dB that values of a quantized model are held to.
    """
    batches = probed(kept) if data is None else list(first_batches(data))
    found = compare_layers(baseline, model, batches, run.workspace, tolerance=EXPORT_TOLERANCE, floor=floor)
    samples = counted(sum(batch.count for batch in batches), "sample" if data is not None else "probe row")
    return found.compared, tuple(_said(found, samples, floor))


def exported_like(original: Original, model: Path, kept: Sequence[Reference], run: Run) -> Path:
    """Export the source in the model's own opset, where it can be: values keep their names then.

    Raises SourceError where the source does not export.
    """
    opset = ir.load(model).opset_imports.get("")
    try:
        asked = None if isinstance(original, OnnxOriginal) else opset
        exported, _ = export(original, kept, run.workspace, asked)
    except UsageError:
        exported, _ = export(original, kept, run.workspace)
    return run.workspace.save(exported.model, "source")


def first_batches(data: Data) -> Iterator[Batch]:
    """Yield the batches of the first ``SAMPLES`` samples."""
    count = 0
    for batch in data.batches():
        yield batch
        count += batch.count
        if count >= SAMPLES:
            return


def probed(kept: Sequence[Reference]) -> list[Batch]:
    """Return what takes the place of data where there are none: the first inputs that probe the model."""
    return [_batch(reference) for reference in kept[:PROBES]]


def _batch(reference: Reference) -> Batch:
    """Return a probe as a batch of which every row counts."""
    inputs = {name: np.asarray(array) for name, array in reference.inputs.items()}
    count = max((len(array) for array in inputs.values() if array.ndim), default=1)
    return Batch(inputs, None, count, 0, np.arange(count))


def _said(found: Layers, samples: str, floor: float | None) -> Iterator[str]:
    first = found.first
    if not found.compared:
        yield "layer by layer: no value of the model has a counterpart of its name in the source"
    elif first is not None:
        if floor is not None:
            off = f"at {decibels(first.sqnr)}, below the floor of {floor:g} dB"
        else:
            off = f"off by {error(first.error or 0.0)} of its rms, allowed is {error(EXPORT_TOLERANCE)}"
        yield f"layer by layer: the first value that diverges is {first.value} ({first.op}), {off}"
    else:
        yield "layer by layer: no value diverges"
    rest = [(found.only_after, "of the model's"), (found.only_before, "of the source's")]
    missing = " and ".join(f"{count:,} {whose}" for count, whose in rest if count)
    alone = f"; {missing} have no counterpart" if missing else ""
    yield f"layer by layer: {counted(len(found.compared), 'float value')} compared over {samples}{alone}"
    if found.inside:
        yield f"layer by layer: values inside {counted(found.inside, 'subgraph')} of the model are not compared"
    if found.other_shapes:
        names = ", ".join(found.other_shapes[:3])
        many = counted(len(found.other_shapes), "value")
        yield f"layer by layer: {many} of one name with other shapes are not the same value ({names})"
