"""Arrays against what a loaded model takes: nothing is cast, nothing is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.errors import DataError, kind_of
from mlc.figures import counted
from mlc.grammar import nearest

if TYPE_CHECKING:
    from mlc.types import Arrays


@dataclass(frozen=True)
class Expected:
    """What a model takes as one input: NumPy's name of the dtype, and the axes, of which only whole numbers bind."""

    dtype: str
    shape: tuple[int | str | None, ...]


def check_inputs(model: str, given: Arrays, expected: Mapping[str, Expected], optional: Collection[str] = ()) -> None:
    """Raise DataError where a name, dtype, rank or fixed size is not the model's."""
    for name in given:
        if name not in expected and name not in optional:
            raise DataError(f"{model} has no input {name!r}", nearest(name, expected))
    for name, wanted in expected.items():
        if name not in given:
            raise DataError(f"{model} needs the input {name!r}", f"it takes: {', '.join(expected)}")
        _check_array(model, name, given[name], wanted)


def check_outputs(model: str, asked: Sequence[str] | None, outputs: Sequence[str]) -> list[str]:
    """Return the outputs asked for, all by default. Raises DataError for one that the model does not have."""
    names = list(outputs if asked is None else asked)
    for name in names:
        if name not in outputs:
            raise DataError(f"{model} has no output {name!r}", nearest(name, outputs))
    return names


def _check_array(model: str, name: str, array: Any, expected: Expected) -> None:
    if not isinstance(array, np.ndarray):
        raise DataError(f"the input {name} of {model} is {kind_of(array)}, not a NumPy array", "convert it")
    if expected.dtype not in ("object", array.dtype.name):
        raise DataError(
            f"the input {name} of {model} is {expected.dtype}, given {array.dtype.name}", "nothing is cast silently"
        )
    if array.ndim != len(expected.shape):
        axes = counted(len(expected.shape), "axis", "axes")
        raise DataError(f"the input {name} of {model} has {axes}, given the shape {array.shape}")
    for axis, (size, given) in enumerate(zip(expected.shape, array.shape, strict=True)):
        if isinstance(size, int) and size != given:
            raise DataError(f"the input {name} of {model} has size {size} at axis {axis}, given {given}")
