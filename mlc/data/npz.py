"""Samples in an .npz file, read in pieces: an array is never held whole, and nothing in the file is executed."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from mlc.errors import DataError

if TYPE_CHECKING:
    from mlc.types import Array

HINT = "write it again with numpy.savez or numpy.savez_compressed"


@dataclass(frozen=True)
class Header:
    """Shape and dtype of one array of the file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


def read_headers(path: Path) -> dict[str, Header]:
    """Return shape and dtype of each array. Raises DataError for a missing, empty or corrupt file."""
    if not path.exists():
        raise DataError(f"there is no data file {path}", "check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file", "name an .npz file, or file.py:function")
    if path.stat().st_size == 0:
        raise DataError(f"the data file {path} is empty", HINT)
    with _readable(path), zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.namelist():
            with archive.open(member) as stream:
                headers[member.removesuffix(".npy")] = _read_header(path, member, stream)
    if not headers:
        raise DataError(f"the data file {path} holds no arrays", HINT)
    return headers


def read_rows(path: Path, rows: int) -> Iterator[dict[str, Array]]:
    """Yield all arrays of the file in pieces of ``rows`` indexes of axis 0, together; the last piece may be shorter."""
    with _readable(path), ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        streams: dict[str, tuple[IO[bytes], Header]] = {}
        for member in archive.namelist():
            stream = stack.enter_context(archive.open(member))
            streams[member.removesuffix(".npy")] = (stream, _read_header(path, member, stream))
        count = min(header.shape[0] for _, header in streams.values())
        for start in range(0, count, rows):
            piece = min(rows, count - start)
            yield {name: _read_piece(path, name, stream, header, piece) for name, (stream, header) in streams.items()}
        for name, (stream, _) in streams.items():
            if stream.read(1):  # reading to the end also checks the checksum
                raise DataError(f"the array {name} of {path.name} is longer than its header says", HINT)


def _read_header(path: Path, member: str, stream: IO[bytes]) -> Header:
    name = member.removesuffix(".npy")
    if name == member:
        raise DataError(f"{path.name} holds {member!r}, which is not an array", HINT)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"the array {name} of {path.name} is structured", "save plain numeric arrays")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise DataError(f"the array {name} of {path.name} holds Python objects", "save it with a numeric dtype")
    if fortran_order and len(shape) > 1:
        hint = f"save numpy.ascontiguousarray({name})"
        raise DataError(f"the array {name} of {path.name} is in Fortran order and cannot be read by samples", hint)
    if not shape:
        raise DataError(f"the array {name} of {path.name} has no axis that runs over samples", "stack the samples")
    return Header(tuple(shape), dtype)


def _read_piece(path: Path, name: str, stream: IO[bytes], header: Header, rows: int) -> Array:
    buffer = bytearray(rows * header.row_bytes)
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        part = stream.read(len(buffer) - filled)
        if not part:
            raise DataError(f"the array {name} of {path.name} ends early: the file is cut off", HINT)
        view[filled : filled + len(part)] = part
        filled += len(part)
    array = np.frombuffer(buffer, header.dtype).reshape(rows, *header.shape[1:])
    return array if header.dtype.isnative else array.astype(header.dtype.newbyteorder("="))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"the data file {path} is corrupt or not an .npz file: {error}", HINT) from error
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error
