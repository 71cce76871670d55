"""What ``save_to_disk`` of Hugging Face datasets wrote: columns are inputs, by their name. Nothing uses a network."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlc.data.checks import check_kinds, check_values
from mlc.data.columns import answers_column, column_array, input_columns, uneven, widened
from mlc.data.extras import needed
from mlc.data.images import ImageReader, image_detail, image_notes, image_reader
from mlc.data.sources import Chunk, IndexedSource
from mlc.errors import DataError, foreign
from mlc.grammar.images import Images
from mlc.types import InputSpec

if TYPE_CHECKING:
    from mlc.types import Array

_ONE, _SEVERAL = "state.json", "dataset_dict.json"
"""Files that a Dataset and a DatasetDict have."""

_AGAIN = "write it again with save_to_disk"


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is a saved Dataset or DatasetDict."""
    return any((folder / name).is_file() for name in (_ONE, _SEVERAL))


def open_dataset(folder: Path, inputs: Sequence[InputSpec], images: Images | None) -> DatasetSource:
    """Open a saved Dataset. Raises DataError, for a DatasetDict of several splits too: each is a folder of its own."""
    if (folder / _SEVERAL).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{_ONE}"))
        if len(splits) != 1:
            hint = f"name one: {' or '.join(str(folder / split) for split in splits)}" if splits else _AGAIN
            raise DataError(f"{folder} is a DatasetDict of {', '.join(splits) or 'no splits'}", hint)
        folder /= splits[0]
    whole = folder.resolve()
    in_dict = (whole.parent / _SEVERAL).is_file()
    return DatasetSource(folder, f"{whole.parent.name}/{whole.name}" if in_dict else whole.name, inputs, images)


class DatasetSource(IndexedSource):
    """A saved Dataset: columns named as the inputs, and ``label``, ``labels`` or ``targets``; others are noted.

    Integers and floats may be narrower than the input's, as tokenizers make them: no cast changes a value.
    """

    def __init__(self, folder: Path, name: str, inputs: Sequence[InputSpec], images: Images | None) -> None:
        datasets = needed("datasets", "hf", "datasets of Hugging Face")
        dataset = _loaded(datasets, folder, name)
        kinds = dataset.features
        pictures = [column for column, kind in kinds.items() if isinstance(kind, datasets.Image)]
        self.name = name
        self.count = len(dataset)
        self._inputs = inputs
        self._columns = input_columns(name, list(kinds), pictures, inputs)
        self._answers = answers_column(name, kinds, self._columns.values())
        self.has_answers = self._answers is not None
        self.classes = tuple(getattr(kinds.get(self._answers), "names", None) or ())
        self._readers = {
            spec.name: image_reader(name, spec, images) for spec in inputs if self._columns[spec.name] in pictures
        }
        self.from_images = bool(self._readers)
        self.detail = ", ".join(dict.fromkeys(image_detail(reader) for reader in self._readers.values()))
        used = [*self._columns.values(), *([] if self._answers is None else [self._answers])]
        self.notes = (*self._column_notes([column for column in kinds if column not in used]), *self._notes(images))
        self._table = dataset.select_columns(used).with_format("arrow")
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.at(np.array([0]))

    def at(self, indexes: Array) -> Chunk:
        """Read the samples at some places."""
        with foreign(f"the dataset {self.name}", DataError, _AGAIN):
            whole = indexes[-1] - indexes[0] == len(indexes) - 1
            table = self._table[indexes[0] : indexes[-1] + 1] if whole else self._table[indexes]
        arrays = {spec.name: self._array(spec, table, indexes) for spec in self._inputs}
        kinds = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        check_kinds(self.name, kinds, self._inputs)
        check_values(self.name, self._inputs, arrays, indexes)
        return Chunk(arrays, self._labels(table, indexes), indexes)

    def _array(self, spec: InputSpec, table: Any, indexes: Array) -> Array:
        column = self._columns[spec.name]
        what = f"the column {column} of {self.name}"
        if spec.name in self._readers:
            return _pixels(table[column], self._readers[spec.name], what, indexes)
        array = widened(column_array(table[column], what, indexes), spec)
        size = array.shape[1:]
        if self._shapes.setdefault(spec.name, size) != size:
            raise uneven(what, 0, _text(self._shapes[spec.name]), indexes[0], _text(size))
        return array

    def _labels(self, table: Any, indexes: Array) -> Array | None:
        if self._answers is None:
            return None
        labels = column_array(table[self._answers], f"the column {self._answers} of {self.name}", indexes)
        if self.classes and labels.min() < 0:
            row = indexes[np.argmax(labels < 0)]
            raise DataError(
                f"sample {row} of {self.name} has no label: it is {labels.min()}", "name a split with labels"
            )
        return labels

    def _notes(self, images: Images | None) -> Iterator[str]:
        for reader in list(self._readers.values())[:1]:
            yield from image_notes(self.name, reader, images)

    def _column_notes(self, spare: Sequence[str]) -> Iterator[str]:
        for spec, column in self._columns.items():
            if spec != column:
                yield f"the column {column} of {self.name} is the input {spec}: it is the only one of images"
        if spare:
            yield f"columns of {self.name} that are no input were not read: {', '.join(spare)}"


def _pixels(column: Any, reader: ImageReader, what: str, indexes: Array) -> Array:
    """Decode the images of a column."""
    samples = []
    for index, image in zip(indexes, column.to_pylist(), strict=True):
        if image is None or image["bytes"] is None:
            hint = "remove or repair it; save_to_disk puts the files themselves into a dataset"
            raise DataError(f"sample {index} has no image in {what}", hint)
        file = f" ({image['path']})" if image["path"] else ""
        samples.append(reader.read(io.BytesIO(image["bytes"]), f"the image in sample {index} of {what}{file}"))
    return np.stack(samples)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"


def _loaded(datasets: Any, folder: Path, name: str) -> Any:
    """Load a dataset of which nothing is held in memory, and no file lies elsewhere."""
    with foreign(f"the dataset {name}", DataError, _AGAIN):
        state = json.loads((folder / _ONE).read_text(encoding="utf-8"))
        files = [file["filename"] for file in state["_data_files"]]
        for file in files:
            if Path(file).name != file:
                raise DataError(f"the dataset {name} names a file outside of its folder: {file}", _AGAIN)
        with _no_progress(datasets):
            dataset = datasets.load_from_disk(str(folder.absolute()), keep_in_memory=False) if files else ()
    if len(dataset) == 0:
        raise DataError(f"{name} has no samples", "it needs at least one row")
    return dataset


@contextmanager
def _no_progress(datasets: Any) -> Iterator[None]:
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()
