"""Arrays as ``numpy.save`` writes them, read in pieces: none is ever held whole, and nothing in a file is executed."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlc.errors import DataError

if TYPE_CHECKING:
    from mlc.types import Array

HINT = "write it again with numpy.save, numpy.savez or numpy.savez_compressed"


@dataclass(frozen=True)
class Header:
    """Shape and dtype of one array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Opened:
    """One array that is being read; ``what`` names it as the start of a sentence."""

    what: str
    stream: IO[bytes]
    header: Header


def opened(what: str, stream: IO[bytes]) -> Opened:
    """Read the header of an array. Raises DataError for one that cannot be read by samples."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{what} is structured", "save plain numeric arrays")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects", "save it with a numeric dtype")
    if fortran_order and len(shape) > 1:
        raise DataError(
            f"{what} is in Fortran order and cannot be read by samples", "save numpy.ascontiguousarray of it"
        )
    if not shape:
        raise DataError(f"{what} has no axis that runs over samples", "stack the samples")
    return Opened(what, stream, Header(tuple(shape), dtype))


def pieces(arrays: Mapping[str, Opened], rows: int) -> Iterator[dict[str, Array]]:
    """Yield arrays in pieces of ``rows`` indexes of axis 0, together; the last piece may be shorter."""
    count = min(array.header.shape[0] for array in arrays.values())
    for start in range(0, count, rows):
        size = min(rows, count - start)
        yield {name: _piece(array, size) for name, array in arrays.items()}
    for array in arrays.values():
        if array.stream.read(1):  # reading to the end also checks the checksum of an archive
            raise DataError(f"{array.what} is longer than its header says", HINT)


def _piece(array: Opened, rows: int) -> Array:
    buffer = bytearray(rows * array.header.row_bytes)
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        part = array.stream.read(len(buffer) - filled)
        if not part:
            raise DataError(f"{array.what} ends early: the file is cut off", HINT)
        view[filled : filled + len(part)] = part
        filled += len(part)
    dtype = array.header.dtype
    values = np.frombuffer(buffer, dtype).reshape(rows, *array.header.shape[1:])
    return values if dtype.isnative else values.astype(dtype.newbyteorder("="))


def check_present(path: Path) -> None:
    """Raise DataError for a file that is missing, empty or no file."""
    if not path.exists():
        raise DataError(f"there is no data file {path}", "check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file", "name a file of data, a folder of them, or file.py:function")
    if path.stat().st_size == 0:
        raise DataError(f"the data file {path} is empty", HINT)


BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError)
"""What NumPy raises where a file is cut off, damaged, encrypted, pickled or no file of arrays at all."""


@contextmanager
def readable(path: Path, ending: str) -> Iterator[None]:
    """Say in one sentence what is wrong with a file that cannot be read."""
    try:
        yield
    except BROKEN as error:
        raise DataError(f"the data file {path} is corrupt or not an {ending} file: {error}", HINT) from error
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error
