"""Whatever names data, or is data, as a stream: files, folders, functions and re-iterables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlc.data.folders import npy_source, npz_source, open_folder
from mlc.data.images import ENDINGS
from mlc.data.sources import IterableSource, Source
from mlc.data.stream import PREFERRED, Data, batch_size
from mlc.errors import DataError, foreign
from mlc.grammar.images import Images
from mlc.grammar.places import names_function
from mlc.types import InputSpec, OutputSpec


def open_data(
    source: str | Path | Iterable[Any],
    inputs: Sequence[InputSpec],
    outputs: Sequence[OutputSpec] = (),
    images: Images | None = None,
) -> Data:
    """Open a file or folder of samples, a ``file.py:function`` or a re-iterable of batches, and check its first ones.

    ``outputs`` only make the message better for an array that is called like an output. ``images`` says how images
    become an input; whether it was used is ``from_images`` of the data's source. Raises DataError, and UsageError for
    settings of images that the input cannot have.
    """
    names = [output.name for output in outputs]
    batch_size(inputs, PREFERRED)
    if isinstance(source, Path):
        source = str(source)
    if isinstance(source, str):
        return Data(_named(source, inputs, names, images), inputs)
    return Data(IterableSource(source, f"the {type(source).__name__}", inputs, names), inputs)


def _named(text: str, inputs: Sequence[InputSpec], outputs: Sequence[str], images: Images | None) -> Source:
    path = Path(text)
    ending = path.suffix.lower()
    if path.is_dir():
        return open_folder(path, inputs, outputs, images)
    if ending == ".py":
        from mlc.references import function_hint

        raise DataError(f"the data {text} name no function", function_hint(text))
    if ending == ".npy":
        if len(inputs) > 1:
            hint = f"give a folder with one for each: {', '.join(f'{spec.name}.npy' for spec in inputs)}"
            raise DataError(f"{text} is one array, and the model takes {len(inputs)} inputs", hint)
        return npy_source(path.name, {inputs[0].name: path}, inputs, outputs)
    if ending in ENDINGS and path.is_file():
        raise DataError(f"{text} is one image", "name a folder of images")
    if ending == ".npz" or not names_function(text):
        return npz_source(path, inputs, outputs)
    return IterableSource(_call(text), text, inputs, outputs)


def _call(reference: str) -> Any:
    from mlc.references import load_function

    function = load_function(reference, DataError)
    with foreign(f"the data function {reference}", DataError):
        return function()
