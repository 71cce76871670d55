"""Samples as a stream of batches, stacked to the size of the inputs' axis 0, and parts of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlc.data.sources import Chunk, Source
from mlc.dims import legal, range_text, smallest
from mlc.errors import DataError
from mlc.figures import counted
from mlc.types import Dim, InputSpec

if TYPE_CHECKING:
    from mlc.types import Array

PREFERRED = 32
"""Samples in a batch where the model leaves it open."""


@dataclass(frozen=True)
class Batch:
    """Samples stacked to the size of the inputs' axis 0.

    Only the first ``count`` rows are samples, the others fill the batch up and are dropped from outputs. ``answers``
    has ``count`` rows. ``indexes`` are the samples' places in the user's data, ``first`` is the first of them.
    """

    inputs: dict[str, Array]
    answers: Array | None
    count: int
    first: int
    indexes: Array


class Data:
    """Samples that can be read again and again, each time the same ones in the same order.

    ``source`` is where they come from, ``keep`` is a mask over its samples, and ``name`` is what such a part is called.
    """

    def __init__(self, source: Source, inputs: Sequence[InputSpec], name: str = "", keep: Array | None = None) -> None:
        self.source = source
        self.name = name or source.name
        self.inputs = tuple(inputs)
        self.has_answers = source.has_answers
        self._count = source.count
        self._keep = keep
        batch_size(self.inputs, PREFERRED)

    def __len__(self) -> int:
        """Return the number of samples; where the source does not know, it is read once."""
        if self._keep is not None:
            return int(self._keep.sum())
        if self._count is None:
            self._count = sum(len(chunk.indexes) for chunk in self.source.chunks(PREFERRED))
        return self._count

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield all samples, stacked to the fixed size of axis 0, or to about ``size`` where that is open."""
        rows = batch_size(self.inputs, size or PREFERRED)
        chunks = self.source.chunks(rows) if self._keep is None else self.source.kept(rows, self._keep)
        for chunk in _regrouped(chunks, rows):
            yield _batch(chunk, filled_size(self.inputs, len(chunk.indexes)))

    def subset(self, keep: Array, name: str) -> Data:
        """Return the samples for which ``keep`` (one boolean a sample of these data) is true."""
        whole = keep
        if self._keep is not None:
            whole = np.zeros_like(self._keep)
            whole[np.flatnonzero(self._keep)[keep]] = True
        return Data(self.source, self.inputs, name, whole)


def split(data: Data, share: float, seed: int) -> tuple[Data, Data]:
    """Split into two disjoint streams by sample, seeded; the first gets ``share`` of the samples, both at least one."""
    count = len(data)
    if count < 2:  # noqa: PLR2004
        raise DataError(
            f"{data.name} has {counted(count, 'sample')}, too few to split",
            "give calibration and evaluation data apart",
        )
    size = min(max(round(count * share), 1), count - 1)
    keep = np.zeros(count, bool)
    keep[np.random.default_rng(seed).permutation(count)[:size]] = True
    first, second = (f"{data.name} ({part} of {count} samples)" for part in (size, count - size))
    return data.subset(keep, first), data.subset(~keep, second)


def batch_size(inputs: Sequence[InputSpec], wanted: int) -> int:
    """Return the largest size of axis 0 up to ``wanted`` that all inputs accept, or the smallest there is.

    Raises DataError where samples cannot be stacked along axis 0.
    """
    dims = [_sample_axis(spec, inputs) for spec in inputs]
    near = list(itertools.takewhile(lambda size: size <= wanted, _common_sizes(dims, 1)))
    size = near[-1] if near else next(_common_sizes(dims, 1), None)
    if size is None:
        sizes = ", ".join(f"{spec.name} {_size_text(dim)}" for spec, dim in zip(inputs, dims, strict=True))
        raise DataError(
            f"samples cannot be stacked: the inputs' axis 0 have no size in common ({sizes or 'no inputs'})"
        )
    return size


def filled_size(inputs: Sequence[InputSpec], rows: int) -> int:
    """Return the smallest size of axis 0 that all inputs accept and that holds ``rows`` samples."""
    return next(_common_sizes([spec.dims[0] for spec in inputs], rows))


def _common_sizes(dims: Sequence[Dim], start: int) -> Iterator[int]:
    """Yield the sizes from ``start`` up that are legal for every dim, in order."""
    if not dims:
        return
    low, high = max(start, *(dim.low for dim in dims)), min(dim.high for dim in dims)
    for size in range(smallest(dims[0], low - 1), high + 1, dims[0].step):
        if size >= low and all(legal(dim, size) for dim in dims):
            yield size


def _sample_axis(spec: InputSpec, inputs: Sequence[InputSpec]) -> Dim:
    if not spec.dims:
        hint = f"let the module take {spec.name} with an axis for the samples, [batch], or keep it as a constant"
        raise DataError(f"the input {spec.name} is a single number, of which samples cannot be stacked", hint)
    dim = spec.dims[0]
    elsewhere = [
        other.name for other in inputs for axis in other.dims[1:] if dim.name and dim.name in (axis.name, *axis.terms)
    ]
    if dim.terms or elsewhere:
        where = f"is also an axis of {elsewhere[0]}" if elsewhere else f"is {'+'.join(dim.terms)}"
        hint = "samples run along axis 0: transpose it in the model"
        raise DataError(f"samples cannot be stacked: axis 0 of {spec.name}, {dim.name}, {where}", hint)
    return dim


def _size_text(dim: Dim) -> str:
    return str(dim.low) if dim.name is None else f"{dim.name}={range_text(dim)}"


def _regrouped(chunks: Iterable[Chunk], rows: int) -> Iterator[Chunk]:
    """Yield chunks of exactly ``rows`` samples; a shorter one at the end and before the samples' shape changes."""
    waiting: list[Chunk] = []
    for chunk in chunks:
        if not len(chunk.indexes):
            continue
        if waiting and _shape(waiting[0]) != _shape(chunk):
            yield _joined(waiting)
            waiting = []
        waiting.append(chunk)
        if sum(len(part.indexes) for part in waiting) < rows:
            continue
        joined = _joined(waiting)
        whole = len(joined.indexes) // rows * rows
        for start in range(0, whole, rows):
            yield joined.rows(start, start + rows)
        waiting = [joined.rows(whole, len(joined.indexes))] if whole < len(joined.indexes) else []
    if waiting:
        yield _joined(waiting)


def _shape(chunk: Chunk) -> tuple[object, ...]:
    answers = None if chunk.answers is None else (chunk.answers.shape[1:], chunk.answers.dtype)
    return (answers, *(array.shape[1:] for array in chunk.inputs.values()))


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    answers = [chunk.answers for chunk in chunks if chunk.answers is not None]
    return Chunk(
        {name: np.concatenate([chunk.inputs[name] for chunk in chunks]) for name in chunks[0].inputs},
        np.concatenate(answers) if answers else None,
        np.concatenate([chunk.indexes for chunk in chunks]),
    )


def _batch(chunk: Chunk, size: int) -> Batch:
    """Fill a chunk up to ``size`` rows with its last sample."""
    count = len(chunk.indexes)
    inputs = chunk.inputs
    if count < size:
        inputs = {
            name: np.concatenate([array, np.repeat(array[-1:], size - count, axis=0)]) for name, array in inputs.items()
        }
    return Batch(inputs, chunk.answers, count, int(chunk.indexes[0]), chunk.indexes)
