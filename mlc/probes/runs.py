"""Inputs to compare models with, at any legal size, and the answers of the original to them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlc.compare import Reference, is_float
from mlc.dims import named, second_sizes, shapes, size_of, traced_sizes, value_range, verified_sizes
from mlc.errors import SourceError, UsageError
from mlc.figures import counted, sizes_text
from mlc.grammar.inputs import input_text, name_text
from mlc.machine import PEAK, memory_bytes, process_bytes, reset_peak
from mlc.probes.ends import Runs, end_references
from mlc.types import Ceiling, InputSpec, Sizes

if TYPE_CHECKING:
    from mlc.types import Array, Arrays

SECONDS = 120.0
"""Time that the sizes which may be left out can take together."""

APART = 2.0**-7
"""By how much of themselves at most the elements of a tile are nearer to 0 than what is repeated."""

MEMORY_SHARE = 0.25
"""Share of the machine's memory that one run of the original may be expected to take."""


def probe(
    inputs: Sequence[InputSpec], sizes: Sizes, example: Arrays, samples: Arrays | None, seed: int
) -> dict[str, np.ndarray]:
    """Return one array for each input at the given sizes.

    Values come from the stacked real samples, else from the example, tiled or cropped, else from the declared range;
    floats without any are seeded normal. Tiles of floats that are no whole numbers differ a little: of what is equal
    nobody says which is the largest. What falls, as lengths in order do, falls still. A float example that is zero
    everywhere stands for a shape, not for values. Where the largest value hangs on a size, no value is above it.
    """
    wanted = shapes(inputs, sizes)
    generator = np.random.default_rng(seed)
    made = {}
    for spec in inputs:
        real, shape, values = _real(spec, example, samples), wanted[spec.name], value_range(spec, inputs, sizes)
        made[spec.name] = _drawn(spec, shape, values, generator) if real is None else _fit(real, shape, generator)
        if real is not None and values is not None and spec.ceiling is not None:
            made[spec.name] = np.clip(made[spec.name], *values).astype(real.dtype)
    return made


def drawn_inputs(inputs: Sequence[InputSpec], example: Arrays) -> tuple[InputSpec, ...]:
    """Return the inputs with a declared range whose values are drawn from it, since the example says none."""
    return tuple(spec for spec in inputs if spec.values is not None and _real(spec, example, None) is None)


def _real(spec: InputSpec, example: Arrays, samples: Arrays | None) -> Array | None:
    """Return values to tile or crop, or None where there are none that say anything."""
    if samples is not None and spec.name in samples:
        return np.asarray(samples[spec.name])
    if spec.name not in example:
        return None
    array: Array = example[spec.name]
    placeholder = array.size > 1 and not array.any() and array.dtype != bool
    if placeholder and (array.dtype.kind == "f" or spec.values is not None):
        return None
    return array


def _fit(array: Array, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Repeat or cut every axis to its size; an empty axis that must grow is filled with zeros."""
    own = array.shape
    for axis, size in enumerate(shape):
        if array.shape[axis] == size:
            continue
        if array.shape[axis] == 0:
            return np.zeros(shape, array.dtype)
        places = np.arange(size) % array.shape[axis]
        array = np.take(array, np.sort(places) if _falls(array) else places, axis=axis)
    fitted = np.ascontiguousarray(array).reshape(shape)
    tiled = any(size > had for size, had in zip(shape, own, strict=True))
    if tiled and is_float(fitted.dtype) and not np.array_equal(fitted, np.round(fitted)):
        inside = np.zeros(shape, bool)
        inside[tuple(map(slice, own))] = True
        nearer = fitted * (1 - APART * generator.random(shape))
        fitted = np.where(inside, fitted, nearer.astype(fitted.dtype))
    return fitted


def _falls(array: Array) -> bool:
    return array.ndim == 1 and array.dtype.kind in "iu" and bool((array[1:] <= array[:-1]).all())


def _drawn(
    spec: InputSpec, shape: tuple[int, ...], values: tuple[float, float] | None, generator: np.random.Generator
) -> Array:
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return np.asarray(generator.integers(0, 2, shape)).astype(dtype)
    if dtype.kind in "iu":
        if values is None:
            raise UsageError(
                f"nothing says which values the integer input {spec.name!r} may take",
                f"write its range, such as --input '{name_text(spec.name)}={dtype}[...] in 0..99', or give an example",
            )
        low, high = (int(bound) for bound in values)
        return np.asarray(generator.integers(low, high, shape, dtype=np.int64, endpoint=True)).astype(dtype)
    if values is None:
        return np.asarray(generator.standard_normal(shape)).astype(dtype)
    return np.asarray(generator.uniform(*values, shape)).astype(dtype)


def references(original: Runs, samples: Arrays | None, seed: int) -> tuple[tuple[Reference, ...], tuple[str, ...]]:
    """Return the original's answers at every size to verify, the traced ones first, and notes.

    The notes are the sizes not run and why, and where the original itself gives NaN.

    The traced, the smallest and the second sizes always run; others are left out where they would take too much memory
    or time. Last come those at the ends of the declared ranges of values. Raises SourceError where the original fails
    at a size or a value that its inputs declare legal.
    """
    inputs = original.signature.inputs
    traced = traced_sizes(inputs, {name: array.shape for name, array in original.example.items()})
    chosen = list(verified_sizes(inputs, traced))
    second = second_sizes(inputs, traced)
    if second not in chosen:
        chosen.append(second)
    must = [traced, {name: dim.low for name, dim in named(inputs).items()}, second]
    budget = _Budget(inputs, traced)
    done: dict[int, Reference] = {}
    skipped: list[str] = []
    for index in sorted(range(len(chosen)), key=lambda index: (chosen[index] not in must, index)):
        sizes = chosen[index]
        reason = "" if not done or sizes in must else budget.refuses(sizes)
        if reason:
            skipped.append(f"{sizes_text(sizes)} was not run: {reason}")
            continue
        done[index] = budget.spend(sizes, lambda sizes=sizes: answer(original, sizes, samples, seed))  # type: ignore[misc]
    kept = tuple(done[index] for index in sorted(done))
    ends = end_references(original, traced, done[0].inputs)
    return (*kept, *ends), (*skipped, *_nan_notes(kept))


def _nan_notes(kept: Sequence[Reference]) -> Iterator[str]:
    """Say where the original gives NaN on drawn or given inputs: what is quantized gives numbers there."""
    for name in kept[0].outputs:
        places = [one.sizes for one in kept if is_float(one.outputs[name].dtype) and np.isnan(one.outputs[name]).any()]
        if places:
            more = f" and {counted(len(places) - 1, 'more size')}" if len(places) > 1 else ""
            at = f"{sizes_text(places[0])}{more}"
            yield f"the original itself gives NaN in {name} at {at}, as for a row that is wholly masked"


def answer(original: Runs, sizes: Sizes, samples: Arrays | None, seed: int) -> Reference:
    """Return the original's answer at one size. Raises SourceError that names the size where it fails."""
    inputs = probe(original.signature.inputs, sizes, original.example, samples, seed)
    try:
        return Reference(dict(sizes), inputs, original.run(inputs))
    except SourceError as failed:
        if not sizes:
            raise
        raise SourceError(
            f"the model does not hold at {sizes_text(sizes)}: {failed.message}",
            size_hint(original.signature.inputs),
        ) from failed


def size_hint(inputs: Sequence[InputSpec]) -> str:
    """Return what to change where a model fails at a size that its inputs declare legal."""
    hint = "narrow the range of that dim, give it a step, or give an example of real values"
    rows = [spec for spec in inputs if len(spec.dims) == 1 and "int" in spec.dtype and spec.ceiling is None]
    dims = [name for name in named(inputs) if all(name != spec.dims[0].name for spec in rows)]
    if not rows or not dims:
        return hint
    spec = replace(rows[0], values=(1, 1), ceiling=Ceiling(dims[-1]))
    return f"{hint}; of lengths, say that they end with the sequence, as in --input '{input_text(spec)}'"


class _Budget:
    """What the traced run took, and what it lets one expect of other sizes."""

    def __init__(self, inputs: Sequence[InputSpec], traced: Sizes) -> None:
        self.inputs = inputs
        self.traced = traced
        self.end = time.perf_counter() + SECONDS
        self.seconds = 0.0
        self.bytes = 0

    def spend(self, sizes: Sizes, run: Callable[[], Reference]) -> Reference:
        """Run, and remember what the traced sizes took."""
        before, start = reset_peak(), time.perf_counter()
        reference = run()
        if sizes == self.traced:
            self.seconds = time.perf_counter() - start
            held = sum(array.nbytes for arrays in (reference.inputs, reference.outputs) for array in arrays.values())
            self.bytes = max(held, process_bytes(PEAK) - before)
        return reference

    def refuses(self, sizes: Sizes) -> str:
        """Return why a size is not to be run, or nothing."""
        growth = math.prod(max(1.0, size / max(1, self.traced[name])) for name, size in sizes.items())
        if self.bytes * growth > memory_bytes() * MEMORY_SHARE:
            return f"it would take about {self.bytes * growth / 1e9:.1f} GB of memory"
        if time.perf_counter() + self.seconds * growth > self.end:
            return f"it would take more than the {SECONDS:.0f} s that all sizes may take"
        return ""


def check_example(inputs: Sequence[InputSpec], example: Arrays) -> Mapping[str, int]:
    """Return the example's sizes; raise UsageError where one dim has two sizes or a shape is not what is declared."""
    given = {spec.name: spec for spec in inputs if spec.name in example}
    sizes = traced_sizes(inputs, {name: example[name].shape for name in given})
    for spec in given.values():
        for axis, dim in enumerate(spec.dims):
            size, wanted = example[spec.name].shape[axis], size_of(dim, sizes)
            if size == wanted:
                continue
            name = f" ({dim.name})" if dim.name else ""
            raise UsageError(
                f"the example's {spec.name} has {size} at axis {axis}{name}, but it should be {wanted}",
                "one dim has one size everywhere; change the example or the input's sizes",
            )
    return sizes
