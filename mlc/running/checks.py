"""Whether arrays are what a model takes: names, dtypes, shapes, and the sizes and values that were verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlc.data.checks import ANSWERS
from mlc.dims import legal, range_text, sizes_in, value_range
from mlc.errors import DataError
from mlc.figures import counted
from mlc.grammar import nearest
from mlc.sources.onnx.ports import Port
from mlc.types import Dim, InputSpec

if TYPE_CHECKING:
    from mlc.types import Array, Arrays


def check_names(file: str, names: Sequence[str], model: str, ports: Sequence[Port]) -> tuple[str, ...]:
    """Return notes on arrays that are left alone.

    Raises DataError for an input without an array, and for an array that is no input, with the nearest name.
    """
    known = [port.name for port in ports]
    spare = [name for name in names if name not in known]
    for port in ports:
        if port.name not in names and not port.optional:
            hint = f"it has: {', '.join(names)}" if names else f"it takes: {', '.join(known)}"
            raise DataError(f"{file} has no array for the input {port.name!r} of {model}", hint)
    for name in spare:
        if name not in ANSWERS:
            raise DataError(f"{file} has an array {name!r} that is not an input of {model}", nearest(name, known))
    return tuple(f"{name} in {file} is not an input and was left alone" for name in spare)


def check_arrays(file: str, arrays: Arrays, model: str, ports: Sequence[Port]) -> None:
    """Raise DataError where an array's dtype, rank or a size is not what the model's file says."""
    for port in ports:
        if port.kind != "tensor":
            raise DataError(f"the input {port.name} of {model} is a {port.kind}", "a file of arrays cannot hold one")
        if port.name in arrays:
            _check_dtype(file, arrays[port.name], model, port)
            _check_shape(file, arrays[port.name], model, port)


def _check_dtype(file: str, array: Array, model: str, port: Port) -> None:
    given = "string" if array.dtype.kind in "US" else array.dtype.name
    if given == port.dtype:
        return
    what = f"the input {port.name} of {model} is {port.dtype}, {file} has {given}"
    if not hasattr(np, port.dtype):
        raise DataError(what, f"NumPy has no {port.dtype}, so that no file of arrays can hold it")
    raise DataError(what, f"convert it yourself, with .astype({port.dtype!r}): nothing is cast silently")


def _check_shape(file: str, array: Array, model: str, port: Port) -> None:
    if port.axes is None:
        return
    if array.ndim != len(port.axes):
        hint = "give the samples an axis of their own: array[None]" if array.ndim == len(port.axes) - 1 else ""
        takes = f"takes {port}"
        raise DataError(f"the input {port.name} of {model} {takes}, {file} has the shape {array.shape}", hint)
    for axis, (size, given) in enumerate(zip(port.axes, array.shape, strict=True)):
        if not isinstance(size, int) or size == given:
            continue
        if axis == 0:
            hint = f"run the samples {size} at a time, or compile the model with a range there"
            raise DataError(f"{model} takes {size} along axis 0 of {port.name} in every run, {file} has {given}", hint)
        what = f"the input {port.name} of {model} has size {size} at axis {axis}, {file} has {given}"
        raise DataError(what, "change the array, or compile the model with a range there")


def check_ranges(file: str, arrays: Arrays, inputs: Sequence[InputSpec]) -> None:
    """Raise DataError for a size outside the ranges that an artifact was verified for, and for dims that disagree."""
    sizes: dict[str, tuple[int, str]] = {}
    places = [
        (spec.name, axis, dim, arrays[spec.name].shape[axis])
        for spec in inputs
        for axis, dim in enumerate(spec.dims)
        if spec.name in arrays and dim.name is not None
    ]
    for name, axis, dim, size in places:
        if not legal(dim, size):
            hint = f"nothing was verified there: {_fitting(axis, dim, size)}, or compile the model with a wider range"
            raise DataError(
                f"{file} has size {size} at axis {axis} of {name}, outside {dim.name}={range_text(dim)}", hint
            )
        other, owner = sizes.setdefault(str(dim.name), (size, name))
        if other != size:
            what = f"{file} has {other} for {dim.name} in {owner} and {size} in {name}"
            raise DataError(what, "one dim has one size everywhere")
    for name, axis, dim, size in places:
        expected = sum(sizes[term][0] for term in dim.terms if term in sizes)
        if dim.terms and all(term in sizes for term in dim.terms) and size != expected:
            total = f"{dim.name}={'+'.join(dim.terms)}={expected}"
            raise DataError(f"{file} has size {size} at axis {axis} of {name}, not {total}", "make them agree")


def _fitting(axis: int, dim: Dim, size: int) -> str:
    return f"run at most {dim.high} samples at once" if axis == 0 and size > dim.high else "change the array"


def notes_on(file: str, arrays: Arrays, ports: Sequence[Port], inputs: Sequence[InputSpec]) -> Iterator[str]:
    """Yield what is unusual in arrays that can be run: symbols that disagree, values that nothing was verified for."""
    yield from _disagreeing(file, arrays, ports)
    sizes = sizes_in(inputs, {name: np.shape(array) for name, array in arrays.items()})
    known = {spec.name: value_range(spec, inputs, sizes) for spec in inputs}
    ranges = {name: values for name, values in known.items() if values is not None}
    for name, array in arrays.items():
        whole = f"of {counted(array.size, 'value')} of {name} in {file}"
        if array.size == 0:
            yield f"{name} in {file} is empty"
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            yield counted(bad, f"{whole} is NaN or infinite", f"{whole} are NaN or infinite")
        if name in ranges:
            low, high = ranges[name]
            outside = int(((array < low) | (array > high)).sum())
            if outside:
                where = f"outside {low:g}..{high:g}, where nothing was verified"
                yield counted(outside, f"{whole} lies {where}", f"{whole} lie {where}")


def _disagreeing(file: str, arrays: Arrays, ports: Sequence[Port]) -> Iterator[str]:
    seen: dict[str, tuple[int, str]] = {}
    for port in ports:
        if port.name not in arrays or port.axes is None:
            continue
        for symbol, size in zip(port.axes, arrays[port.name].shape, strict=True):
            if not isinstance(symbol, str):
                continue
            other, owner = seen.setdefault(symbol, (size, port.name))
            if other != size:
                yield f"{file} has {other} for {symbol} in {owner} and {size} in {port.name}"
