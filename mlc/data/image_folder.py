"""A folder of images, or of a folder of images for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlc.data.checks import check_values
from mlc.data.images import image_detail, image_notes, image_reader
from mlc.data.sources import Chunk, IndexedSource
from mlc.errors import DataError
from mlc.grammar.images import Images
from mlc.types import InputSpec

if TYPE_CHECKING:
    from mlc.types import Array


class ImageFolder(IndexedSource):
    """Images by their path below a folder, in order; with classes, the first part of the path is each one's answer."""

    from_images = True

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        classes: Sequence[str],
        inputs: Sequence[InputSpec],
        images: Images | None,
    ) -> None:
        self.name = folder.resolve().name
        if len(inputs) > 1:
            hint = "give an .npz, a dataset, or a function"
            raise DataError(f"{self.name} has only images, and the model takes {len(inputs)} inputs", hint)
        self._folder = folder
        self._files = files
        self._inputs = inputs
        self._reader = image_reader(self.name, inputs[0], images)
        self.classes = tuple(classes)
        places = {name: place for place, name in enumerate(classes)}
        self._labels = np.array([places[file.partition("/")[0]] for file in files]) if classes else None
        self.has_answers = bool(classes)
        self.count = len(files)
        self.detail = image_detail(self._reader)
        self.notes = image_notes(self.name, self._reader, images)

    def at(self, indexes: Array) -> Chunk:
        """Decode the images at some places."""
        pixels = np.stack([self._sample(index) for index in indexes])
        return Chunk({self._reader.input: pixels}, None if self._labels is None else self._labels[indexes], indexes)

    def _sample(self, index: int) -> Array:
        file = self._files[index]
        pixels = self._reader.read(self._folder / file, f"the image {self.name}/{file}")
        inputs = {self._reader.input: pixels[np.newaxis]}
        check_values(f"{self.name} ({file})", self._inputs, inputs, np.array([index]))
        return pixels
