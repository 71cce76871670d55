"""Which outputs a model has, and which of their axes follow a named dim: found out by running it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mlc.dims import largest, named, size_of, traced_sizes
from mlc.errors import SourceError
from mlc.figures import sizes_text
from mlc.grammar.inputs import input_text
from mlc.probes import drawn_inputs, probe, size_hint
from mlc.probes.ends import blamed_on_values
from mlc.sources.original import Original
from mlc.types import Dim, InputSpec, OutputSpec, Sizes

if TYPE_CHECKING:
    from mlc.types import Array, Arrays

AGREEMENT = 1e-5
"""Largest difference over the largest value between two runs on the same input: threads may add in another order."""

GUARD = "Guard failed"
"""What a module that torch.export made says of sizes that it was not exported for."""

PLAIN = 2
"""The smallest size that is nothing special: axes of 0 and 1 broadcast."""


def output_specs(original: Original) -> tuple[OutputSpec, ...]:
    """Return the outputs in order; runs the original twice on its example and once at other sizes.

    Raises SourceError where two runs on the same input disagree, or the model fails at the other sizes.
    """
    inputs = original.signature.inputs
    traced = traced_sizes(inputs, {name: array.shape for name, array in original.example.items()})
    arrays = probe(inputs, traced, original.example, None, 0)
    first = _first_run(original, arrays)
    _check_repeats(first, original.run(arrays))
    other = distinct_sizes(inputs, traced)
    second = first if other == traced else _run_at(original, other)
    dims = {dim.name: dim for spec in inputs for dim in spec.dims if dim.name is not None}
    return tuple(
        OutputSpec(name, str(array.dtype), _axes(array, second.get(name, array), dims, traced, other))
        for name, array in first.items()
    )


def _first_run(original: Original, arrays: Arrays) -> dict[str, Array]:
    """Run on the example, or on what stands for it; where that fails, say what of the declared inputs is to blame."""
    try:
        return original.run(arrays)
    except SourceError as failed:
        drawn = drawn_inputs(original.signature.inputs, original.shown)
        raise (blamed_on_values(original, arrays, drawn, failed) or _blamed_on_specs(original, failed)) from failed


def _blamed_on_specs(original: Original, failed: SourceError) -> SourceError:
    """Point at the specs of the inputs that no example shows; with an example the error is right as it is."""
    told = [spec for spec in original.signature.inputs if spec.name not in original.shown]
    if not told:
        return failed
    specs = ", ".join(f"--input '{input_text(spec)}'" for spec in told)
    return SourceError(failed.message, f"check that the model takes what {specs} says, or return an example too")


def distinct_sizes(inputs: Sequence[InputSpec], traced: Sizes) -> dict[str, int]:
    """Return legal small sizes, each another than the traced one and than all others' where its range allows."""
    chosen: dict[str, int] = {}
    sums = [dim for spec in inputs for dim in spec.dims if dim.terms]

    def merit(name: str, size: int) -> tuple[bool | int, ...]:
        sizes = {**chosen, name: size}
        known = [dim for dim in sums if name in dim.terms and all(term in sizes for term in dim.terms)]
        same = size == traced[name] or any(size_of(dim, sizes) == size_of(dim, traced) for dim in known)
        return same, size in chosen.values(), size < PLAIN, size % 2 == 0, size

    for name, dim in named(inputs).items():
        legal = range(dim.low, min(largest(dim), dim.low + 64 * dim.step) + 1, dim.step)
        chosen[name] = min(legal, key=partial(merit, name))
    return chosen


def _run_at(original: Original, sizes: Sizes) -> dict[str, Array]:
    inputs = original.signature.inputs
    arrays = probe(inputs, sizes, original.example, None, 0)
    for spec in inputs:
        if spec.values is not None and spec.ceiling is not None:  # a size that follows from values is none of a dim
            arrays[spec.name] = np.full_like(arrays[spec.name], spec.values[0])
    try:
        return original.run(arrays)
    except SourceError as failed:
        hint = size_hint(inputs)
        if GUARD in failed.message:
            hint = "it was exported for fixed sizes: export it again with dynamic_shapes, or fix the size here too"
        raise SourceError(f"the model does not hold at {sizes_text(sizes)}: {failed.message}", hint) from failed


def _axes(
    array: Array, other: Array, dims: dict[str, Dim], traced: Sizes, sizes: Sizes
) -> tuple[int | str | None, ...]:
    """Return each axis: its size where both runs agree, the only name that explains both, else None."""
    if array.ndim != other.ndim:
        return (None,) * array.ndim
    axes: list[int | str | None] = []
    for before, after in zip(array.shape, other.shape, strict=True):
        names = [name for name, dim in dims.items() if (size_of(dim, traced), size_of(dim, sizes)) == (before, after)]
        varies = [name for name in names if size_of(dims[name], traced) != size_of(dims[name], sizes)]
        if before == after:
            axes.append(before)
        else:
            axes.append(varies[0] if len(varies) == 1 else None)
    return tuple(axes)


def _check_repeats(first: Arrays, second: Arrays) -> None:
    for name, array in first.items():
        if not _agree(array, second[name]):
            raise SourceError(
                f"two runs on the same input disagree in the output {name}, in evaluation mode",
                "the model is random: take the randomness out of forward, or give it in as an input",
            )


def _agree(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return False
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    if np.array_equal(first, second, equal_nan=True):
        return True
    finite = np.isfinite(first)
    if not np.array_equal(finite, np.isfinite(second)):
        return False
    scale = float(np.abs(first[finite]).max(initial=0.0))
    return bool(np.abs(first[finite] - second[finite]).max(initial=0.0) <= AGREEMENT * scale)
