"""One pass over samples, from arrays in files or from any re-iterable of batches: checked, by name, in order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.data.arrays import Header
from mlc.data.checks import ANSWERS, answers_name, check_kinds, check_names, check_values
from mlc.errors import DataError, foreign
from mlc.figures import counted
from mlc.types import InputSpec

if TYPE_CHECKING:
    from mlc.types import Array


@dataclass(frozen=True)
class Chunk:
    """Some samples in a row as their source gives them: inputs by name, answers, places in the user's data."""

    inputs: dict[str, Array]
    answers: Array | None
    indexes: Array

    def rows(self, start: int, stop: int) -> Chunk:
        """Return a part of the samples."""
        answers = None if self.answers is None else self.answers[start:stop]
        return Chunk(
            {name: array[start:stop] for name, array in self.inputs.items()}, answers, self.indexes[start:stop]
        )

    def picked(self, keep: Array) -> Chunk:
        """Return the samples that a mask over the user's data keeps."""
        rows = keep[self.indexes]
        answers = None if self.answers is None else self.answers[rows]
        return Chunk({name: array[rows] for name, array in self.inputs.items()}, answers, self.indexes[rows])


class Source(ABC):
    """Samples that can be read again and again, each time the same ones in the same order.

    ``count`` is None where only a pass over the samples tells it. ``detail`` is what the report adds to their name,
    ``classes`` are the names that answers stand for by their place, ``notes`` are what the user has to know.
    ``from_images`` says whether settings of images have been used.
    """

    name: str
    has_answers: bool
    count: int | None = None
    detail: str = ""
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    from_images: bool = False

    @abstractmethod
    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Yield all samples once, about ``rows`` at a time."""

    def kept(self, rows: int, keep: Array) -> Iterator[Chunk]:
        """Yield those samples that a mask over all keeps."""
        return (chunk.picked(keep) for chunk in self.chunks(rows))


class IndexedSource(Source):
    """Samples that can be read by their places, each costly enough to read no other."""

    @abstractmethod
    def at(self, indexes: Array) -> Chunk:
        """Return the samples at some places."""

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Yield all samples, ``rows`` at a time."""
        return self.kept(rows, np.ones(self.count or 0, bool))

    def kept(self, rows: int, keep: Array) -> Iterator[Chunk]:
        """Yield those samples that a mask over all keeps, ``rows`` at a time."""
        places = np.flatnonzero(keep)
        return (self.at(places[start : start + rows]) for start in range(0, len(places), rows))


class ArraySource(Source):
    """Arrays in files, named as the inputs, and ``labels`` or ``targets``; checked as far as their headers say.

    ``read(rows)`` starts one pass over them.
    """

    def __init__(
        self,
        name: str,
        headers: Mapping[str, Header],
        read: Callable[[int], Iterator[dict[str, Array]]],
        inputs: Sequence[InputSpec],
        outputs: Sequence[str],
    ) -> None:
        self.name = name
        self.headers = headers
        self._read = read
        self._inputs = inputs
        check_names(name, headers, inputs, outputs)
        check_kinds(name, {key: (header.shape, header.dtype) for key, header in headers.items()}, inputs)
        self.has_answers = answers_name(name, headers, inputs) is not None
        self.count = next(iter(headers.values())).shape[0]
        if self.count == 0:
            raise DataError(f"{name} has no samples", "an array's axis 0 runs over the samples")

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Yield all samples, ``rows`` at a time."""
        first = 0
        for arrays in self._read(rows):
            chunk = checked_chunk(self.name, arrays, self._inputs, first)
            first += len(chunk.indexes)
            yield chunk


class JoinedSource(Source):
    """Several files one after the other, each with several samples in arrays of the same names and kinds."""

    def __init__(self, name: str, parts: Sequence[ArraySource]) -> None:
        self.name = name
        self._parts = parts
        self.has_answers = parts[0].has_answers
        self.count = sum(part.count or 0 for part in parts)
        for part in parts[1:]:
            _refuse_other_arrays(parts[0], part)

    def chunks(self, rows: int) -> Iterator[Chunk]:
        """Yield all samples; a chunk holds samples of one file."""
        first = 0
        for part in self._parts:
            for chunk in part.chunks(rows):
                yield replace(chunk, indexes=chunk.indexes + first)
            first += part.count or 0


def _refuse_other_arrays(first: ArraySource, other: ArraySource) -> None:
    for name in [*first.headers, *other.headers]:
        there, here = other.headers.get(name), first.headers.get(name)
        if there is None or here is None:
            has, lacks = (first, other) if there is None else (other, first)
            raise DataError(f"{has.name} has an array {name!r} and {lacks.name} has none", "give each file the same")
        if there.dtype != here.dtype:
            raise DataError(
                f"{name} is {here.dtype.name} in {first.name} and {there.dtype.name} in {other.name}",
                "give each file the same",
            )


class IterableSource(Source):
    """A re-iterable of batches: dicts by input name, or tuples in signature order with the answers last.

    The first batch is read at once, so that what is wrong is known early, and its digest is kept: a source that gives
    other samples the next time (a shuffling loader) cannot be paired or split, and is refused then.
    """

    def __init__(self, batches: Iterable[Any], name: str, inputs: Sequence[InputSpec], outputs: Sequence[str]) -> None:
        self.name = name
        self._batches = [batches] if isinstance(batches, Mapping) else batches
        self._inputs = inputs
        self._outputs = outputs
        self._digest = ""
        self._refuse_one_shot()
        first = next(self.chunks(0), None)
        if first is None:
            raise DataError(f"{name} has no samples", "it must yield at least one batch")
        self.has_answers = first.answers is not None

    def chunks(self, rows: int) -> Iterator[Chunk]:  # noqa: ARG002
        """Yield one chunk for each batch that holds samples."""
        first = number = 0
        for number, batch in enumerate(self._iterated()):
            arrays = _named(f"batch {number} of {self.name}", batch, self._inputs)
            check_names(f"batch {number} of {self.name}", arrays, self._inputs, self._outputs)
            shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
            check_kinds(f"batch {number} of {self.name}", shapes, self._inputs)
            chunk = checked_chunk(self.name, arrays, self._inputs, first)
            if len(chunk.indexes) == 0:
                continue
            if first == 0:
                self._refuse_other_samples(chunk)
            elif (chunk.answers is not None) != self.has_answers:
                raise DataError(
                    f"batch {number} of {self.name} {'has' if chunk.answers is not None else 'lacks'} answers"
                )
            first += len(chunk.indexes)
            yield chunk

    def _iterated(self) -> Iterator[Any]:
        what = f"the data {self.name}"
        with foreign(what, DataError):
            iterator = iter(self._batches)
        while True:
            with foreign(what, DataError):
                batch = next(iterator, _END)
            if batch is _END:
                return
            yield batch

    def _refuse_one_shot(self) -> None:
        hint = "return a list, a DataLoader, or an object whose __iter__ starts again"
        with foreign(f"the data {self.name}", DataError, hint):
            iterator = iter(self._batches)
        if iterator is self._batches:
            raise DataError(f"{self.name} can be read only once, and it is read several times", hint)

    def _refuse_other_samples(self, chunk: Chunk) -> None:
        digest = hashlib.blake2b()
        for array in chunk.inputs.values():
            digest.update(np.ascontiguousarray(array).data)
        if self._digest not in ("", digest.hexdigest()):
            hint = "switch shuffling and augmentation off: every reading must give the same samples in the same order"
            raise DataError(f"{self.name} gives other samples when it is read again", hint)
        self._digest = digest.hexdigest()


_END = object()


def checked_chunk(source: str, arrays: Mapping[str, Array], inputs: Sequence[InputSpec], first: int) -> Chunk:
    """Return samples whose values have been checked; ``first`` is the place of the first in the source."""
    answers = answers_name(source, arrays, inputs)
    chosen = {spec.name: arrays[spec.name] for spec in inputs}
    indexes = np.arange(first, first + len(next(iter(chosen.values()))))
    check_values(source, inputs, chosen, indexes)
    return Chunk(chosen, None if answers is None else arrays[answers], indexes)


def _named(source: str, batch: Any, inputs: Sequence[InputSpec]) -> dict[str, Array]:
    """Turn a batch as the user gives it into arrays by name."""
    if isinstance(batch, Mapping):
        return {str(name): _array(source, str(name), value) for name, value in batch.items()}
    values = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    names = [spec.name for spec in inputs]
    if len(values) == len(names) + 1:
        names.append(next(name for name in ANSWERS if name not in names))
    if len(values) != len(names):
        hint = f"give a dict by name, or a tuple of {', '.join(names)} and the answers last"
        takes = f"the {counted(len(inputs), 'input')} of the model"
        raise DataError(f"{source} has {counted(len(values), 'value')} for {takes}", hint)
    return {name: _array(source, name, value) for name, value in zip(names, values, strict=True)}


def _array(source: str, name: str, value: Any) -> Array:
    """Return an array, or what a torch tensor or a plain list holds as one."""
    if hasattr(value, "detach"):
        with foreign(f"{name} of {source}", DataError, "NumPy has no such dtype: convert it yourself"):
            value = value.detach().cpu().numpy()
    with foreign(f"{name} of {source}", DataError, "give arrays, tensors or lists of numbers"):
        array = np.asarray(value)
    if array.dtype.hasobject:
        raise DataError(f"{name} of {source} holds Python objects", "give arrays, tensors or lists of numbers")
    if array.ndim == 0:
        raise DataError(f"{name} of {source} has no axis that runs over samples", "stack the samples along axis 0")
    return array
