"""Running a model over samples and keeping what is needed of its values.

The model runs once over the samples with the needed values as further outputs; each array is reduced as it comes and
dropped. Two halves of the data merge into exactly what the whole gives, sums up to their rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from mlc.errors import DataError
from mlc.figures import counted
from mlc.runtimes.onnxruntime import open_session
from mlc.statistics.collected import DIGEST, CollectedStatistics
from mlc.statistics.observers import Observer, refuse_non_finite
from mlc.statistics.taps import in_chunks, tapped
from mlc.types import Need, Target

if TYPE_CHECKING:
    from pathlib import Path

    from mlc.data import Batch
    from mlc.types import Array, Arrays
    from mlc.workspace import Workspace

Batches: TypeAlias = "Iterable[Batch]"
"""Data that can be read again and again, batch by batch."""


def collect(
    model: ir.Model,
    needs: Sequence[Need],
    batches: Batches,
    workspace: Workspace,
    progress: Callable[[str], None] = lambda _: None,
) -> CollectedStatistics:
    """Run the model over all samples, runtime optimizations off, and reduce each needed value.

    Values that would not fit into memory together are collected in several runs. Raises DataError for data without a
    sample, and for a NaN or Inf in an input or in a needed value, with the sample's index; of several values it names
    the first that the model computes. Of a value inside of which only the range is needed that is infinite then.
    """
    outputs = {value.name for value in model.graph.outputs}
    observers = {need.value: Observer(inner=need.value not in outputs) for need in needs}
    for need in needs:
        observers[need.value].want(need.kind)
    if not observers:
        return CollectedStatistics({})
    sizes = _first_shapes(batches)
    digests: list[bytes] = []
    for chunk in in_chunks(model, list(observers), sizes):
        digests = _run(tapped(model, chunk, workspace), chunk, observers, batches, progress)
    if not digests:
        raise DataError("the calibration data holds no sample", "give data with at least one sample")
    seen = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST)
    return CollectedStatistics(observers, len(digests), seen)


def sample_digests(batch: Batch) -> list[bytes]:
    """Return a digest of the inputs of each sample of a batch; an input that does not stack samples is in all whole."""
    parts = [np.ascontiguousarray(array) for array in batch.inputs.values() if array.ndim]
    rows = max((len(part) for part in parts), default=0)

    def sample(row: int) -> bytes:
        return b"".join((part[row] if len(part) == rows else part).tobytes() for part in parts)

    return [hashlib.blake2b(sample(row), digest_size=DIGEST).digest() for row in range(batch.count)]


def _first_shapes(batches: Batches) -> dict[str, tuple[int, ...]]:
    first = next(iter(batches), None)
    if first is None:
        raise DataError("the calibration data holds no sample", "give data with at least one sample")
    return {name: np.shape(array) for name, array in first.inputs.items()}


def _run(
    path: Path,
    chunk: Sequence[str],
    observers: Mapping[str, Observer],
    batches: Batches,
    progress: Callable[[str], None],
) -> list[bytes]:
    """Reduce the values of one chunk over all samples; return the digests of these."""
    digests: list[bytes] = []
    with open_session(path, Target(), optimize=False) as session:
        for batch in batches:
            _refuse_non_finite_inputs(batch)
            computed = [name for name in chunk if name not in batch.inputs]
            values = {**batch.inputs, **(session.run(batch.inputs, computed) if computed else {})}
            for name in chunk:
                if not observers[name].inner:
                    _refuse_infinite_before(name, chunk, values, observers, batch)
                observers[name].add(valid_rows(values[name], batch), f"the value {name}", batch.indexes)
            digests += sample_digests(batch)
            progress(counted(len(digests), "sample"))
    return digests


def _refuse_infinite_before(
    name: str, chunk: Sequence[str], values: Arrays, observers: Mapping[str, Observer], batch: Batch
) -> None:
    """Raise DataError where an output is not finite, with the first value inside that is not."""
    if np.isfinite(values[name]).all():
        return
    for each in chunk:
        if observers[each].inner and observers[each].high == np.inf:
            refuse_non_finite(valid_rows(values[each], batch), f"the value {each}", batch.indexes)


def valid_rows(array: Array, batch: Batch) -> Array:
    """Drop the rows of a batch that only fill it up, where axis 0 is the batch.

    Elsewhere they stay: a filling repeats real samples, so no extreme moves.
    """
    rows = max((len(given) for given in batch.inputs.values() if np.ndim(given)), default=0)
    if batch.count < rows and np.ndim(array) and len(array) == rows:
        return array[: batch.count]
    return array


def _refuse_non_finite_inputs(batch: Batch) -> None:
    for name, array in batch.inputs.items():
        if np.issubdtype(array.dtype, np.floating):
            refuse_non_finite(valid_rows(array, batch), f"the input {name}", batch.indexes)
