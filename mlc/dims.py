"""Sizes of named dims: which are legal, which are verified, and the shapes that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mlc.errors import UsageError
from mlc.types_asked import Dim, InputSpec

if TYPE_CHECKING:
    from mlc.types import Sizes


def named(inputs: Iterable[InputSpec]) -> dict[str, Dim]:
    """Return the independent named dims (no sums) of all inputs, in order of first appearance."""
    return {dim.name: dim for spec in inputs for dim in spec.dims if dim.name is not None and not dim.terms}


def size_of(dim: Dim, sizes: Sizes) -> int:
    """Return the size of one axis under the given sizes of the named dims."""
    if dim.name is None:
        return dim.low
    if dim.terms:
        return sum(sizes[term] for term in dim.terms)
    return sizes[dim.name]


def shapes(inputs: Iterable[InputSpec], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input under the given sizes."""
    return {spec.name: tuple(size_of(dim, sizes) for dim in spec.dims) for spec in inputs}


def value_range(spec: InputSpec, inputs: Iterable[InputSpec], sizes: Sizes) -> tuple[float, float] | None:
    """Return the range of values of one of the inputs under the given sizes, or None where it has none.

    Where nothing is known of the size that it ends with, it is the range of the largest.
    """
    if spec.values is None or spec.ceiling is None:
        return spec.values
    dims = {dim.name: dim for each in inputs for dim in each.dims}
    if not {spec.ceiling.dim, *dims[spec.ceiling.dim].terms} & sizes.keys():
        return spec.values
    return spec.values[0], size_of(dims[spec.ceiling.dim], sizes) - spec.ceiling.below


def sizes_in(inputs: Iterable[InputSpec], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the sizes that arrays of these shapes have along named dims, whether or not they are legal."""
    found = {}
    for spec in inputs:
        for dim, size in zip(spec.dims, shapes.get(spec.name, ()), strict=False):
            if dim.name is not None and not dim.terms:
                found[dim.name] = size
    return found


def legal(dim: Dim, size: int) -> bool:
    """Return whether a size is inside a dim's range and on its step."""
    return dim.low <= size <= dim.high and (size - dim.low) % dim.step == 0


def smallest(dim: Dim, above: int = 0) -> int:
    """Return the smallest legal size greater than ``above``, or the largest there is."""
    steps = max(0, -(-(above + 1 - dim.low) // dim.step))
    return min(dim.low + steps * dim.step, largest(dim))


def largest(dim: Dim) -> int:
    """Return the largest legal size."""
    return dim.low + (dim.high - dim.low) // dim.step * dim.step


def traced_sizes(inputs: Iterable[InputSpec], example: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the sizes to trace at: the example's where there is one, else the smallest legal above 1.

    ``example`` maps input names to shapes. Raises UsageError where the example's size is outside the declared range.
    """
    specs = list(inputs)
    sizes = {name: smallest(dim, above=1) for name, dim in named(specs).items()}
    for spec in specs:
        if spec.name not in example:
            continue
        for axis, dim in enumerate(spec.dims):
            if dim.name is None or dim.terms:
                continue
            size = example[spec.name][axis]
            if not legal(dim, size):
                raise UsageError(
                    f"the example's {spec.name} has {size} at axis {axis}, outside {dim.name}={range_text(dim)}",
                    "widen the range or change the example",
                )
            sizes[dim.name] = size
    return sizes


def range_text(dim: Dim) -> str:
    """Return a range as it is written: ``1..64`` or ``32..512/32``."""
    return f"{dim.low}..{dim.high}" + (f"/{dim.step}" if dim.step != 1 else "")


def verified_sizes(inputs: Iterable[InputSpec], traced: Sizes) -> tuple[Sizes, ...]:
    """Return the sizes at which an export is compared with the original, the traced ones first, no size twice.

    Each named dim at its minimum, its maximum and one more legal size while the others are small, plus all at minimum
    and each at its maximum while the others are there: sizes of 1 are not small, since tracing takes them for special.
    A model without named dims has one: the traced one, an empty mapping.
    """
    dims = named(inputs)
    lowest = {name: dim.low for name, dim in dims.items()}
    small = {name: smallest(dim, above=1) for name, dim in dims.items()}
    chosen: list[Sizes] = [dict(traced), lowest]
    for name, dim in dims.items():
        chosen += [{**small, name: size} for size in (dim.low, largest(dim), another(dim, traced[name]))]
        chosen.append({**lowest, name: largest(dim)})
    return unique(chosen)


def unique(sizes: Iterable[Sizes]) -> tuple[Sizes, ...]:
    """Return sizes in their order, none twice."""
    kept: list[Sizes] = []
    for one in sizes:
        if one not in kept:
            kept.append(one)
    return tuple(kept)


def another(dim: Dim, traced: int) -> int:
    """Return a legal size that is neither minimum, maximum nor the traced one where the range has one.

    The odd sizes near the lower end come first: even ones hide bugs of halving and padding.
    """
    taken = {dim.low, largest(dim), traced}
    candidates = range(dim.low, min(largest(dim), dim.low + 64 * dim.step) + 1, dim.step)
    free = [size for size in candidates if size not in taken]
    odd = [size for size in free if size % 2]
    return next(iter(odd or free), traced)


def second_sizes(inputs: Iterable[InputSpec], traced: Sizes) -> Sizes:
    """Return the one other size of every named dim at which passes are verified beside the traced ones."""
    return {name: another(dim, traced[name]) for name, dim in named(inputs).items()}
