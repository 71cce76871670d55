"""The dims of a program of torch.export, and whether the specs of its inputs keep to them.

A program says of each axis a size, a symbol with a range, or an expression of symbols, such as ``2*s0`` or ``s0 + s1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch

from mlc.dims import named, size_of, smallest, verified_sizes
from mlc.errors import UsageError
from mlc.sources.specs import check_fits, dim_text, unknown_input
from mlc.types import Dim, InputSpec, Sizes

Axis: TypeAlias = int | sympy.Expr

Bounds: TypeAlias = Mapping[sympy.Expr, tuple[int, int | None]]

ASSUMED = 2
"""The lower end that torch writes where nothing was said; a program runs at 0 and 1 all the same."""

SHOWN = 64
"""How many sizes the range in an example of a spec has."""


@dataclass(frozen=True)
class Taken:
    """One tensor that a program takes: its name, dtype (NumPy's name) and axes."""

    name: str
    dtype: str
    axes: tuple[Axis, ...]


def axes_of(shape: Iterable[Any]) -> tuple[Axis, ...]:
    """Return the axes of a traced tensor: numbers, or expressions of symbols."""
    return tuple(size if isinstance(size, int) else _plain(size.node.expr) for size in shape)


def _plain(expression: sympy.Expr) -> Axis:
    return int(expression) if expression.is_Integer else expression


def bounds(program: torch.export.ExportedProgram) -> Bounds:
    """Return the range of every symbol and expression; None for an upper end that is open."""
    return {
        expression: (int(limits.lower), int(limits.upper) if limits.upper.is_Integer else None)
        for expression, limits in program.range_constraints.items()
    }


def specs_of(taken: Sequence[Taken], ranges: Bounds, given: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Return the spec of every input: the user's, else what the program says of its axes.

    Raises UsageError for a spec that contradicts the program, and where the program leaves open how large an axis is.
    """
    asked = {spec.name: spec for spec in given}
    names = [one.name for one in taken]
    for spec in given:
        if spec.name not in names:
            raise unknown_input(spec.name, names)
    dims: dict[Axis, Dim] = {}
    for one in taken:
        if one.name in asked:
            symbols = tuple(axis if isinstance(axis, int) else str(axis) for axis in one.axes)
            check_fits(asked[one.name], one.dtype, symbols)
            dims |= {axis: dim for axis, dim in zip(one.axes, asked[one.name].dims, strict=True) if axis not in dims}
    left = [one for one in taken if one.name not in asked]
    for plain in (True, False):  # sums of symbols are named by the axes that the symbols are
        for one in left:
            for place, axis in enumerate(one.axes):
                if isinstance(axis, sympy.Symbol) is plain and axis not in dims:
                    dims[axis] = _dim(one, place, dims, ranges)
    own = {one.name: InputSpec(one.name, one.dtype, tuple(dims[axis] for axis in one.axes)) for one in left}
    return tuple(asked.get(name) or own[name] for name in names)


def _dim(one: Taken, place: int, dims: Mapping[Axis, Dim], ranges: Bounds) -> Dim:
    """Return the dim that an axis without a spec is."""
    axis = one.axes[place]
    if isinstance(axis, int):
        return Dim(axis, axis)
    name = re.sub(r"\W", "_", f"{one.name}_{place}")
    if isinstance(axis, sympy.Symbol):
        return _ranged(one, place, ranges.get(axis, (ASSUMED, None)), name)
    known = [dims[symbol] for symbol in sorted(axis.free_symbols, key=str) if symbol in dims]
    if len(known) == len(axis.free_symbols):
        if all(dim.fixed for dim in known):
            size = int(axis.subs({symbol: dims[symbol].low for symbol in axis.free_symbols}))
            return Dim(size, size)
        if axis == sum(axis.free_symbols) and all(dim.name and not dim.terms for dim in known):
            terms = tuple(dim.name for dim in known if dim.name)
            return Dim(sum(dim.low for dim in known), sum(dim.high for dim in known), name=name, terms=terms)
    factor = _linear(axis)
    if not known and factor is not None:
        (symbol,) = axis.free_symbols
        low, high = ranges.get(symbol, (ASSUMED, None))
        ends = int(axis.subs(symbol, low)), None if high is None else int(axis.subs(symbol, high))
        return _ranged(one, place, ends, name, step=factor)
    raise UsageError(
        f"the axis {place} of the input {one.name} is {_readable(axis, dims)} in the program, which no spec can say",
        "give every input a spec in which these sizes are numbers",
    )


def _ranged(one: Taken, place: int, ends: tuple[int, int | None], name: str, step: int = 1) -> Dim:
    low, high = ends
    if high is not None:
        low = max(low, step)  # torch writes 0 where nothing was said
        return Dim(high, high) if low >= high else Dim(low, high, step, name)
    raise UsageError(
        f"nothing says how large the axis {place} of the input {one.name} may be: the program leaves it open",
        f"add --input '{one.name}={one.dtype}[{_example_axes(one, name, low, step)}]'",
    )


def _example_axes(one: Taken, name: str, low: int, step: int) -> str:
    """Return axes as they could be written in a spec; axes of one size have one name."""
    first = {axis: f"{name.rpartition('_')[0]}_{place}" for place, axis in reversed(list(enumerate(one.axes)))}
    low = 1 if low == ASSUMED else low
    written: list[str] = []
    for axis in one.axes:
        ends = f"={low}..{low + (SHOWN - 1) * step}" + (f"/{step}" if step != 1 else "")
        known = any(text.startswith(f"{first[axis]}=") for text in written)
        written.append(str(axis) if isinstance(axis, int) else first[axis] + ("" if known else ends))
    return ",".join(written)


def _linear(axis: sympy.Expr) -> int | None:
    """Return the factor of an expression ``factor*symbol + rest`` of one symbol, or None."""
    if len(axis.free_symbols) != 1:
        return None
    (symbol,) = axis.free_symbols
    factor = sympy.diff(axis, symbol)
    return int(factor) if factor.is_Integer and factor > 0 else None


def check_sizes(taken: Sequence[Taken], ranges: Bounds, specs: Sequence[InputSpec]) -> None:
    """Raise UsageError where sizes that the specs call legal are none that the program takes."""
    traced = {name: smallest(dim, above=1) for name, dim in named(specs).items()}
    for sizes in verified_sizes(specs, traced):
        _check(taken, ranges, specs, sizes)


@dataclass(frozen=True)
class _Place:
    """One axis of one input that the program lets vary, and what the specs say of it."""

    axis: sympy.Expr
    dim: Dim
    name: str


def _check(taken: Sequence[Taken], ranges: Bounds, specs: Sequence[InputSpec], sizes: Sizes) -> None:
    """Solve the program's axes for its symbols at some sizes, the plain ones first."""
    found: dict[Any, tuple[int, _Place]] = {}
    places = [
        _Place(axis, dim, f"axis {number} of {one.name}")
        for one, spec in zip(taken, specs, strict=True)
        for number, (axis, dim) in enumerate(zip(one.axes, spec.dims, strict=True))
        if not isinstance(axis, int)
    ]
    for place in sorted(places, key=lambda place: not isinstance(place.axis, sympy.Symbol)):
        size = size_of(place.dim, sizes)
        unknown = place.axis.free_symbols - set(found)
        factor = _linear(place.axis)
        if not unknown:
            value = int(place.axis.subs({symbol: found[symbol][0] for symbol in place.axis.free_symbols}))
            if value != size:
                raise _contradiction(place, {symbol: there for symbol, (_, there) in found.items()}, value)
            _check_range(place, place.axis, value, ranges)
        elif len(unknown) == 1 and factor is not None:
            (symbol,) = unknown
            rest = size - int(place.axis.subs(symbol, 0))
            if rest % factor:
                raise _off_step(place, factor)
            found[symbol] = (rest // factor, place)
            _check_range(place, symbol, rest // factor, ranges)


def _check_range(place: _Place, known: sympy.Expr, value: int, ranges: Bounds) -> None:
    """Raise UsageError where a symbol of a place, or all of its expression, is outside the range that it has."""
    low, high = ranges.get(known, (ASSUMED, None))
    if (value >= low or low == ASSUMED) and (high is None or value <= high):
        return
    least = int(place.axis.subs(known, low))
    takes = f"{least} or more" if high is None else f"{least}..{int(place.axis.subs(known, high))}"
    raise UsageError(
        f"the program takes {takes} at {place.name}; the spec says {dim_text(place.dim)}",
        "narrow the range, or export the program with a wider one",
    )


def _off_step(place: _Place, factor: int) -> UsageError:
    dim = place.dim
    hint = f"give it the step, as in {dim.name}={dim.low}..{dim.high}/{factor}" if dim.name else "give another size"
    return UsageError(f"the program takes {place.name} in steps of {factor}; the spec says {dim_text(dim)}", hint)


def _contradiction(place: _Place, known: Mapping[Any, _Place], value: int) -> UsageError:
    if isinstance(place.axis, sympy.Symbol):
        other = known[place.axis]
        return UsageError(
            f"{other.name} and {place.name} have one size in the program; the specs say {dim_text(other.dim)} and "
            f"{dim_text(place.dim)}",
            "give both the same name or the same number",
        )
    rule = _readable(place.axis, {symbol: there.dim for symbol, there in known.items()})
    return UsageError(
        f"{place.name} is {rule} in the program, {value} where the spec says {dim_text(place.dim)}",
        "give every input a spec in which these sizes fit, or are numbers",
    )


def _readable(axis: sympy.Expr, dims: Mapping[Any, Dim]) -> str:
    """Return an expression with the dims' own names or sizes in the place of its symbols."""
    words = {str(symbol): dim.name or str(dim.low) for symbol, dim in dims.items()}
    return re.sub(r"[A-Za-z_]\w*", lambda word: words.get(word[0], "n"), str(axis))
