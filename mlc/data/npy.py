"""Samples in .npy files, one for each input, read in pieces: an array is never held whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mlc.data.arrays import HINT, Header, check_present, opened, pieces, readable
from mlc.errors import DataError

if TYPE_CHECKING:
    from mlc.types import Array


def read_header(path: Path) -> Header:
    """Return shape and dtype of a file's array. Raises DataError for a missing, corrupt or cut off file."""
    check_present(path)
    with readable(path, ".npy"), path.open("rb") as stream:
        array = opened(f"the array {path.name}", stream)
        there = path.stat().st_size - stream.tell()
    if there < array.header.shape[0] * array.header.row_bytes:
        raise DataError(f"{array.what} ends early: the file is cut off", HINT)
    return array.header


def read_rows(files: Mapping[str, Path], rows: int) -> Iterator[dict[str, Array]]:
    """Yield all arrays in pieces of ``rows`` indexes of axis 0, together; the last piece may be shorter."""
    with ExitStack() as stack:
        arrays = {}
        for name, path in files.items():
            with readable(path, ".npy"):
                arrays[name] = opened(f"the array {path.name}", stack.enter_context(path.open("rb")))
        with readable(path, ".npy"):
            yield from pieces(arrays, rows)
