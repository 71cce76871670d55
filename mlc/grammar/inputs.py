"""The grammar of inputs: ``ids=int64[batch=1..8,seq=32..512/32] in 0..30521``, one for flags, TOML and Python.

::

    spec  = name "=" dtype "[" [dim {"," dim}] "]" ["in" number ".." (number | name ["-" size])]
    dim   = size | name "=" size ".." size ["/" step] | name "=" name {"+" name} | name

The name of an input that has other signs than letters, digits and ``_.:/-`` stands in quotes, as ``"input ids"``.
A bare name stands for the range or sum that is given to it anywhere in the recipe; as a largest value, for its size.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, NoReturn

from mlc.dims import largest, range_text
from mlc.errors import UsageError
from mlc.grammar import DIM_NAME, NUMBER, Reader, nearest, number, number_text, quoted
from mlc.types_asked import Ceiling, Dim, InputSpec

INPUT_NAME = r"[A-Za-z0-9_.:/-]+"
DTYPE = r"[A-Za-z0-9_]+"
_FLOATS = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028234663852886e38, "float64": math.inf}
_INTEGERS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}
DTYPES = (*_FLOATS, *_INTEGERS, "bool")
_ALIASES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int64", "short": "int16",
    "f16": "float16", "f32": "float32", "f64": "float64", "fp16": "float16", "fp32": "float32", "fp64": "float64",
    "bf16": "bfloat16", "i8": "int8", "i32": "int32", "i64": "int64", "u8": "uint8", "boolean": "bool",
}  # fmt: skip


class _Axis(NamedTuple):
    """One dim as written: ``low`` of a fixed size or range, or the terms of a sum, or a name alone; and its place."""

    reader: Reader
    start: int
    end: int
    name: str | None = None
    dim: Dim | None = None
    terms: tuple[str, ...] = ()

    def refuse(self, reason: str, hint: str = "") -> None:
        self.reader.position = self.end
        self.reader.refuse(self.start, reason, hint)


class _Values(NamedTuple):
    """A range of values as written, and where it and its high end stand: that is a number, or hangs on a size."""

    reader: Reader
    start: int
    low: int | float
    high: int | float | Ceiling
    end: int


class _Written(NamedTuple):
    """One input as written, its axes not yet resolved."""

    name: str
    dtype: str
    axes: tuple[_Axis, ...]
    values: _Values | None


def parse_inputs(texts: Sequence[str]) -> tuple[InputSpec, ...]:
    """Parse all inputs of a recipe together, since a bare name may be given its range in any of them."""
    written = [_read_input(text) for text in texts]
    names = [spec.name for spec in written]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the input {name} is given twice", "give each input one spec")
    axes = [axis for spec in written for axis in spec.axes]
    ranges = _ranges(axes)
    sums = _sums(axes, ranges)
    return tuple(
        InputSpec(
            spec.name,
            spec.dtype,
            tuple(_resolve(axis, ranges, sums) for axis in spec.axes),
            _range_of_values(spec, {**ranges, **sums}),
            spec.values.high if spec.values is not None and isinstance(spec.values.high, Ceiling) else None,
        )
        for spec in written
    )


def input_text(spec: InputSpec) -> str:
    """Return an input as ``parse_inputs`` reads it back, every range written out."""
    dims = ",".join(_dim_text(dim) for dim in spec.dims)
    text = f"{name_text(spec.name)}={spec.dtype}[{dims}]"
    if spec.values is not None:
        text += f" in {values_text(spec)}"
    return text


def name_text(name: str) -> str:
    """Return the name of an input as it is written in a spec."""
    return quoted(name, INPUT_NAME)


def values_text(spec: InputSpec) -> str:
    """Return an input's range of values as it is written: ``0..255`` or ``1..length``."""
    assert spec.values is not None
    low, high = spec.values
    if spec.ceiling is None:
        return f"{number_text(low)}..{number_text(high)}"
    return f"{number_text(low)}..{spec.ceiling.dim}" + (f"-{spec.ceiling.below}" if spec.ceiling.below else "")


def _dim_text(dim: Dim) -> str:
    if dim.name is None:
        return str(dim.low)
    return f"{dim.name}={'+'.join(dim.terms) if dim.terms else range_text(dim)}"


def _read_input(text: str) -> _Written:
    reader = Reader(text, "the input spec")
    name, _ = reader.value('the name of an input ("x y" for one with spaces or other signs)', INPUT_NAME)
    reader.expect("=", '= and a dtype, as in x=float32[1,3] ("x y"=float32[1,3] for a name with spaces)')
    dtype = _read_dtype(reader)
    reader.expect("[", "[ and the dims, as in float32[1,3] ([] for a single number)")
    axes: list[_Axis] = []
    if not reader.skip("]"):
        axes.append(_read_axis(reader))
        while not reader.skip("]"):
            reader.expect(",", "a comma or ]")
            axes.append(_read_axis(reader))
    values = _read_values(reader) if reader.skip("in") else None
    if not reader.at_end():
        reader.fail("the end or a value range, as in `in 0..255`,")
    return _Written(name, dtype, tuple(axes), values)


def _read_dtype(reader: Reader) -> str:
    start = reader.place()
    dtype = reader.take(DTYPE, f"a dtype ({', '.join(DTYPES)})")
    if dtype not in DTYPES:
        hint = f"did you mean {_ALIASES[dtype.lower()]}?" if dtype.lower() in _ALIASES else nearest(dtype, DTYPES)
        reader.refuse(start, "is not a dtype", hint)
    return dtype


def _read_axis(reader: Reader) -> _Axis:
    start = reader.place()
    if reader.text[start : start + 1].isdigit():
        size = reader.whole("a size")
        if reader.skip(".."):
            reader.refuse(start, "is a range without a name", f"name it, as in batch={size}..")
        return _Axis(reader, start, reader.position, dim=Dim(size, size))
    name = reader.take(DIM_NAME, "a dim (3, batch=1..64, h=32..512/32, total=past+seq or batch)")
    if not reader.skip("="):
        if reader.skip("+"):
            reader.refuse(start, "begins a sum without a name", f"name it, as in total={name}+..")
        return _Axis(reader, start, reader.position, name)
    if reader.text[reader.place() :][:1].isdigit():
        dim = _read_range(reader, name, start)
        return _Axis(reader, start, reader.position, name, dim)
    terms = [reader.take(DIM_NAME, "a range (1..64) or a sum of named dims (past+seq)")]
    while reader.skip("+"):
        terms.append(reader.take(DIM_NAME, "the name of a dim (a sum adds named dims, no numbers)"))
    if len(terms) == 1:
        reader.refuse(start, "gives one dim a second name", f"write {terms[0]} alone, or a sum such as past+seq")
    return _Axis(reader, start, reader.position, name, terms=tuple(terms))


def _read_range(reader: Reader, name: str, start: int) -> Dim:
    low = reader.whole("the smallest size")
    if not reader.skip(".."):
        reader.fail(
            f".. and the largest size of {name}",
            f"write {low} alone for a fixed size, or a range {name}={low}..{low + 8}",
        )
    high = reader.whole(f"the largest size of {name}, a whole number,")
    step = 1
    if reader.skip("/"):
        step = reader.whole(f"the step of {name}, a whole number,")
    dim = Dim(low, high, step, name)
    if low > high:
        reader.refuse(start, "is an empty range", f"write {name}={high}..{low}")
    if step == 0:
        reader.refuse(start, "has the step 0", "a step is 1 or more")
    if largest(dim) == low:
        reader.refuse(start, "is a range of one size", f"write {low} alone")
    return dim


def _read_values(reader: Reader) -> _Values:
    start = reader.place()
    low = _read_number(reader, "the smallest value, a finite number,")
    reader.expect("..", ".. and the largest value")
    end = reader.place()
    if re.match(DIM_NAME, reader.text[end:]):
        name = reader.take(DIM_NAME, "the largest value")
        below = reader.whole("what is taken from the size") if reader.skip("-") else 0
        return _Values(reader, start, low, Ceiling(name, below), end)
    return _Values(reader, start, low, _read_number(reader, "the largest value, a finite number,"), end)


def _range_of_values(spec: _Written, dims: Mapping[str, Dim]) -> tuple[float, float] | None:
    """Return the range of values of an input, its high end at the largest size where it hangs on one."""
    if spec.values is None:
        return None
    reader, start, low, high, end = spec.values
    if spec.dtype in _INTEGERS and not isinstance(low, int):
        reader.refuse(start, f"is not a range of whole numbers, which {spec.dtype} needs")
    if isinstance(high, Ceiling):
        if high.dim not in dims:
            hint = nearest(high.dim, [*dims]) if dims else ""
            reader.refuse(end, "is neither a finite number nor a dim with a range", hint)
        least, high = dims[high.dim].low - high.below, dims[high.dim].high - high.below
        if least < low:
            reader.refuse(start, f"is empty at the smallest size, where it ends at {least}", "begin the dim at more")
    if low > high:
        reader.refuse(start, "is an empty range", f"write {number_text(high)}..{number_text(low)}")
    _check_held(spec.dtype, low, high, partial(reader.refuse, start))
    return (low, high) if spec.dtype in _INTEGERS else (float(low), float(high))


def _check_held(dtype: str, low: float, high: float, refuse: Callable[..., NoReturn]) -> None:
    """Refuse a range of values that a dtype does not hold."""
    if dtype == "bool":
        refuse("is a range of values of a bool", "a bool needs none")
    if dtype not in _INTEGERS:
        if max(abs(low), abs(high)) > _FLOATS[dtype]:
            refuse(f"does not fit in {dtype}", f"{dtype} holds up to {_FLOATS[dtype]:g}")
        return
    sign, bits = _INTEGERS[dtype]
    least, most = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if not (isinstance(low, int) and isinstance(high, int)):
        refuse(f"is not a range of whole numbers, which {dtype} needs")
    if low < least or high > most:
        refuse(f"does not fit in {dtype}", f"{dtype} holds {least}..{most}")


def _read_number(reader: Reader, expected: str) -> int | float:
    start = reader.place()
    value = number(reader.take(NUMBER, expected))
    if abs(value) > sys.float_info.max:
        reader.refuse(start, "is too large")
    return value


def _ranges(axes: Sequence[_Axis]) -> dict[str, Dim]:
    ranges: dict[str, Dim] = {}
    for axis in axes:
        if axis.name is None or axis.dim is None:
            continue
        first = ranges.setdefault(axis.name, axis.dim)
        if first != axis.dim:
            axis.refuse(
                f"gives {axis.name} a second range, {range_text(axis.dim)} after {range_text(first)}",
                f"give the range once and write {axis.name} alone elsewhere",
            )
    return ranges


def _sums(axes: Sequence[_Axis], ranges: dict[str, Dim]) -> dict[str, Dim]:
    sums: dict[str, Dim] = {}
    summed = {axis.name for axis in axes if axis.terms}
    for axis in axes:
        if axis.name is None or not axis.terms:
            continue
        if axis.name in ranges:
            axis.refuse(f"is a sum, but {axis.name} has the range {range_text(ranges[axis.name])} too")
        for term in axis.terms:
            if term in summed:
                axis.refuse(f"adds {term}, which is itself a sum", "write out its terms")
            if term not in ranges:
                axis.refuse(f"adds {term}, which has no range", f"give it one where it is an axis, as in {term}=1..64")
        low, high = (sum(getattr(ranges[term], end) for term in axis.terms) for end in ("low", "high"))
        dim = Dim(low, high, name=axis.name, terms=axis.terms)
        if sums.setdefault(axis.name, dim) != dim:
            axis.refuse(f"gives {axis.name} a second sum", f"write {axis.name} alone")
    return sums


def _resolve(axis: _Axis, ranges: dict[str, Dim], sums: dict[str, Dim]) -> Dim:
    if axis.name is None:
        assert axis.dim is not None
        return axis.dim
    if axis.name not in ranges and axis.name not in sums:
        known = [*ranges, *sums]
        close = f"; {nearest(axis.name, known)}" if known else ""
        axis.refuse("has no range", f"write {axis.name}=1..64, here or in another input{close}")
    return ranges.get(axis.name) or sums[axis.name]
