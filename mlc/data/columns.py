"""Columns of an Arrow table: which are inputs and answers, and each as an array, axis 0 over samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.data.checks import ANSWERS
from mlc.data.extras import needed
from mlc.errors import DataError
from mlc.grammar import nearest
from mlc.types import InputSpec

if TYPE_CHECKING:
    from mlc.types import Array

LABELS = ("label", *ANSWERS)
"""Names of a column that holds the answers."""


def input_columns(
    source: str, columns: Sequence[str], pictures: Sequence[str], inputs: Sequence[InputSpec]
) -> dict[str, str]:
    """Return the column of each input: that of its name; for a lone input else the only column of ``pictures``.

    Raises DataError where an input has none.
    """
    missing = [spec.name for spec in inputs if spec.name not in columns]
    if len(inputs) == len(missing) == len(pictures) == 1:
        return {inputs[0].name: pictures[0]}
    if missing:
        raise DataError(f"{source} has no column for the input {missing[0]!r}", nearest(missing[0], columns))
    return {spec.name: spec.name for spec in inputs}


def answers_column(source: str, columns: Iterable[str], taken: Iterable[str]) -> str | None:
    """Return the column of the answers, or None; one that is an input is none."""
    found = [name for name in LABELS if name in set(columns) - set(taken)]
    if len(found) > 1:
        raise DataError(f"{source} has both {' and '.join(found)}", "keep the one that the metric reads")
    return found[0] if found else None


def column_array(column: Any, what: str, indexes: Array) -> Array:
    """Return a column of numbers, or of nested lists of them, as one array.

    ``what`` names the column and ``indexes`` are the places of its samples, for errors. Raises DataError for missing
    values, samples of different shapes, and what is no number.
    """
    arrow, compute = needed("pyarrow", "hf", "datasets"), needed("pyarrow.compute", "hf", "datasets")
    values, shape = column.combine_chunks(), [len(column)]
    while True:
        if isinstance(values, arrow.ExtensionArray):
            values = values.storage
        if values.null_count:
            row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(f"sample {indexes[_sample(row, shape)]} has no value in {what}", "remove or repair it")
        if not _is_list(arrow, values):
            break
        lengths = compute.list_value_length(values).to_numpy()
        other = int(np.argmax(lengths != lengths[0]))
        if lengths[other] != lengths[0]:
            raise uneven(what, indexes[0], lengths[0], indexes[_sample(other, shape)], lengths[other])
        values = values.flatten()
        shape.append(int(lengths[0]))
    kinds = arrow.types
    if not (kinds.is_integer(values.type) or kinds.is_floating(values.type) or kinds.is_boolean(values.type)):
        raise DataError(f"{what} holds {values.type}, not numbers", "give numbers, or leave the column out")
    return np.array(values.to_numpy(zero_copy_only=False)).reshape(shape)


def uneven(what: str, sample: int, size: object, other: int, other_size: object) -> DataError:
    """Return the error of two samples that cannot be stacked."""
    hint = "pad them to one length, as tokenizers do with padding='max_length'"
    return DataError(f"{what} has {size} values in sample {sample} and {other_size} in sample {other}", hint)


def widened(array: Array, spec: InputSpec) -> Array:
    """Return integers or floats that are narrower than the input's in its own dtype, everything else as it is."""
    wanted = np.dtype(spec.dtype)
    alike = {array.dtype.kind, wanted.kind} in ({"i"}, {"u"}, {"u", "i"}, {"f"})
    return array.astype(wanted) if alike and np.can_cast(array.dtype, wanted) else array


def _sample(row: int, shape: list[int]) -> int:
    """Return the sample that a row of flattened lists belongs to."""
    return row // int(np.prod(shape[1:], dtype=np.int64))


def _is_list(arrow: Any, values: Any) -> bool:
    kinds = arrow.types
    return bool(kinds.is_list(values.type) or kinds.is_large_list(values.type) or kinds.is_fixed_size_list(values.type))
