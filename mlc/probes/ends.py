"""The ends of the declared ranges of values: a range is a promise, and the model is run at its ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlc.compare import Reference
from mlc.dims import traced_sizes, value_range
from mlc.errors import SourceError
from mlc.grammar import number_text
from mlc.grammar.inputs import values_text
from mlc.types import InputSpec, Signature, Sizes

if TYPE_CHECKING:
    from mlc.types import Arrays

LOW, HIGH = 0, 1


class Runs(Protocol):
    """What is asked of an original: its signature, its example, and to be run."""

    signature: Signature
    example: Arrays

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Run once: arrays by input name to arrays by output name."""


def end_references(original: Runs, sizes: Sizes, inputs: Arrays) -> list[Reference]:
    """Return the original's answers where every input with a declared range holds its low end, and its high end.

    ``inputs`` are arrays of the given sizes, of which the others stay. Raises SourceError that names the value at which
    the original fails.
    """
    found = []
    for end in (LOW, HIGH):
        held = [spec for spec in original.signature.inputs if _has_end(spec, end) and inputs[spec.name].size]
        if not held:
            continue
        arrays = _at_end(original, inputs, held, end)
        try:
            outputs = original.run(arrays)
        except SourceError as failed:
            raise range_error(original, inputs, held, end, failed) from failed
        text = ", ".join(_end_text(spec, arrays, end) for spec in held)
        found.append(Reference(dict(sizes), arrays, outputs, text))
    return found


def blamed_on_values(
    original: Runs, inputs: Arrays, drawn: Sequence[InputSpec], failed: SourceError
) -> SourceError | None:
    """Return what a failure on drawn values means where the low ends of their ranges would not have failed."""
    if not drawn or _fails(original, _at_end(original, inputs, drawn, LOW)) is not None:
        return None
    high = _fails(original, _at_end(original, inputs, drawn, HIGH))
    if high is not None:
        return range_error(original, _at_end(original, inputs, drawn, LOW), drawn, HIGH, high)
    ranges = " and ".join(f"{spec.name} in {values_text(spec)}" for spec in drawn)
    return SourceError(f"the model does not hold for all values of {ranges}: {failed.message}", _hint(drawn))


def range_error(
    original: Runs, inputs: Arrays, held: Sequence[InputSpec], end: int, failed: SourceError
) -> SourceError:
    """Return the error for an end at which the original fails: of the one input that fails alone, else of all."""
    for spec in held if len(held) > 1 else ():
        alone = _fails(original, _at_end(original, inputs, [spec], end))
        if alone is not None:
            held, failed = [spec], alone
            break
    side = "high" if end == HIGH else "low"
    arrays = _at_end(original, inputs, held, end)
    values = " and ".join(
        f"{_end_text(spec, arrays, end)} (the {side} end of its range in {values_text(spec)})" for spec in held
    )
    return SourceError(f"the model does not hold for {values}: {failed.message}", _hint(held))


def _has_end(spec: InputSpec, end: int) -> bool:
    return spec.values is not None and (end == LOW or spec.values[LOW] != spec.values[HIGH])


def _at_end(original: Runs, inputs: Arrays, held: Sequence[InputSpec], end: int) -> dict[str, np.ndarray]:
    specs = original.signature.inputs
    sizes = traced_sizes(specs, {name: array.shape for name, array in inputs.items()})
    arrays = dict(inputs)
    for spec in held:
        values = value_range(spec, specs, sizes)
        if values is not None:
            arrays[spec.name] = np.full_like(inputs[spec.name], values[end])
    return arrays


def _fails(original: Runs, inputs: Arrays) -> SourceError | None:
    try:
        original.run(inputs)
    except SourceError as failed:
        return failed
    return None


def _end_text(spec: InputSpec, arrays: Arrays, end: int) -> str:
    assert spec.values is not None
    value = spec.values[end] if spec.ceiling is None or end == LOW else int(arrays[spec.name].flat[0])
    return f"{spec.name} = {number_text(value)}"


def _hint(held: Sequence[InputSpec]) -> str:
    names = " and ".join(spec.name for spec in held)
    rows = [spec.name for spec in held if len(spec.dims) == 1 and "int" in spec.dtype and spec.ceiling is None]
    ending = f"; of lengths, let it end with the size, as in {rows[0]}=... in 1..DIM" if rows else ""
    return f"narrow the range of {names} to the values that the model takes{ending}"
