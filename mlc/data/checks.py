"""What samples must be: names, dtypes, ranks, sizes, finite values; a fault is one sentence with names and indexes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.dims import legal, range_text, sizes_in, value_range
from mlc.errors import DataError
from mlc.figures import counted
from mlc.grammar import nearest
from mlc.types import Dim, InputSpec

if TYPE_CHECKING:
    from mlc.types import Array

ANSWERS = ("labels", "targets")
"""Names under which the answers stand beside the inputs."""


def answers_name(source: str, names: Iterable[str], inputs: Sequence[InputSpec]) -> str | None:
    """Return the name under which the answers stand, or None; an input of that name is an input."""
    taken = {spec.name for spec in inputs}
    found = [name for name in ANSWERS if name in set(names) and name not in taken]
    if len(found) > 1:
        raise DataError(f"{source} has both {' and '.join(found)}", "keep the one that the metric reads")
    return found[0] if found else None


def check_names(source: str, names: Iterable[str], inputs: Sequence[InputSpec], outputs: Sequence[str] = ()) -> None:
    """Raise DataError for an input without an array or an array that is neither an input nor the answers."""
    given = list(names)
    wanted = [spec.name for spec in inputs]
    answers = answers_name(source, given, inputs)
    spare = [name for name in given if name not in wanted and name != answers]
    missing = [name for name in wanted if name not in given]
    if missing:
        hint = nearest(missing[0], spare) if spare else f"it has: {', '.join(given) or 'nothing'}"
        raise DataError(f"{source} has no array for the input {missing[0]!r}", hint)
    if spare:
        hint = f"the inputs are: {', '.join(wanted)}; answers are called labels or targets"
        if spare[0] in outputs:
            hint = f"it is an output of the model: call the answers labels or targets instead of {spare[0]!r}"
        raise DataError(f"{source} has an array {spare[0]!r} that is not an input of the model", hint)


def check_kinds(
    source: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], inputs: Sequence[InputSpec]
) -> None:
    """Raise DataError for a wrong dtype, rank, size or length; ``shapes`` has shape and dtype by array name."""
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        shape, dtype = shapes[spec.name]
        if dtype.hasobject:
            raise DataError(f"the input {spec.name} of {source} holds Python objects", f"save it as {spec.dtype}")
        if dtype.name != spec.dtype:
            hint = f"convert it yourself, with .astype({spec.dtype!r}): nothing is cast silently"
            raise DataError(f"the input {spec.name} of {source} is {dtype.name}, the model takes {spec.dtype}", hint)
        if len(shape) != len(spec.dims):
            hint = "axis 0 runs over the samples; the other axes are the model's"
            axes = counted(len(spec.dims), "axis", "axes")
            raise DataError(f"the input {spec.name} of {source} has the shape {shape}, not {axes}", hint)
        for axis, dim in enumerate(spec.dims[1:], start=1):
            where = f"the input {spec.name} of {source} has size {shape[axis]} at axis {axis}"
            _check_size(where, shape[axis], dim, spec.name, sizes)
    _check_sums(source, shapes, inputs, sizes)
    _check_lengths(source, {name: shape[0] for name, (shape, _) in shapes.items() if shape}, inputs)


def _check_lengths(source: str, lengths: Mapping[str, int], inputs: Sequence[InputSpec]) -> None:
    """Raise DataError where not every array has as many samples as the first."""
    along = {spec.name: spec.dims[0] for spec in inputs}
    for name, length in lengths.items():
        first, expected = next(iter(lengths.items()))
        if length == expected:
            continue
        hint = "make them as many"
        if {first, name} <= along.keys() and along[first] != along[name]:
            one = "where a whole call is one sample, let the module take each with an axis of size 1 before it"
            hint = f"samples run along axis 0 of every input: {one}"
        raise DataError(f"{source} has {counted(expected, 'sample')} of {first} and {length} of {name}", hint)


def _check_size(where: str, size: int, dim: Dim, name: str, sizes: dict[str, tuple[int, str]]) -> None:
    if dim.name is None:
        if size != dim.low:
            raise DataError(f"{where}, the model takes {dim.low}", "change the data, or compile with a range there")
        return
    if not legal(dim, size):
        raise DataError(f"{where}, outside {dim.name}={range_text(dim)}", "widen the range or change the data")
    if not dim.terms:
        other, owner = sizes.setdefault(dim.name, (size, name))
        if other != size:
            raise DataError(f"{where}, while {owner} has {other} for the same {dim.name}", "make them equal")


def _check_sums(
    source: str,
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
    inputs: Sequence[InputSpec],
    sizes: Mapping[str, tuple[int, str]],
) -> None:
    for spec in inputs:
        for axis, dim in enumerate(spec.dims[1:], start=1):
            if not dim.terms or any(term not in sizes for term in dim.terms):
                continue
            expected, size = sum(sizes[term][0] for term in dim.terms), shapes[spec.name][0][axis]
            if size != expected:
                total = f"{dim.name}={'+'.join(dim.terms)}={expected}"
                raise DataError(f"the input {spec.name} of {source} has size {size} at axis {axis}, not {total}")


def check_values(source: str, inputs: Sequence[InputSpec], arrays: Mapping[str, Array], indexes: Array) -> None:
    """Raise DataError with the sample's index for NaN or Inf, and for values outside the range that the spec states."""
    sizes = sizes_in(inputs, {name: np.shape(array) for name, array in arrays.items()})
    for spec in inputs:
        array = arrays[spec.name]
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            row = _first_row(~np.isfinite(array))
            kind = "NaN" if np.isnan(array[row]).any() else "Inf"
            raise DataError(
                f"sample {indexes[row]} of {source} has {kind} in the input {spec.name}",
                "remove or repair it" + ("; a mask may hold -1e9 in its place" if kind == "Inf" else ""),
            )
        values = value_range(spec, inputs, sizes)
        if values is None or array.size == 0:
            continue
        low, high = values
        bad = (array < low) | (array > high)
        if bad.any():
            row = _first_row(bad)
            value = array[row][bad[row]].flat[0]
            hint = "change the data, or the range in the input's spec"
            raise DataError(
                f"sample {indexes[row]} of {source} has {value} in the input {spec.name}, outside {low:g}..{high:g}",
                hint,
            )


def _first_row(bad: Array) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
