"""Samples in an .npz file, read in pieces: an array is never held whole, and nothing in the file is executed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mlc.data.arrays import HINT, Header, Opened, check_present, opened, pieces, readable
from mlc.errors import DataError

if TYPE_CHECKING:
    from mlc.types import Array

__all__ = ["Header", "read_headers", "read_rows"]


def read_headers(path: Path) -> dict[str, Header]:
    """Return shape and dtype of each array. Raises DataError for a missing, empty or corrupt file."""
    check_present(path)
    headers = {}
    with readable(path, ".npz"), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                headers[member.removesuffix(".npy")] = _member(path, member, stream).header
    if not headers:
        raise DataError(f"the data file {path} holds no arrays", HINT)
    return headers


def read_rows(path: Path, rows: int) -> Iterator[dict[str, Array]]:
    """Yield all arrays of the file in pieces of ``rows`` indexes of axis 0, together; the last piece may be shorter."""
    with readable(path, ".npz"), ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        arrays = {
            member.removesuffix(".npy"): _member(path, member, stack.enter_context(archive.open(member)))
            for member in archive.namelist()
        }
        yield from pieces(arrays, rows)


def _member(path: Path, member: str, stream: IO[bytes]) -> Opened:
    name = member.removesuffix(".npy")
    if name == member:
        raise DataError(f"{path.name} holds {member!r}, which is not an array", HINT)
    return opened(f"the array {name} of {path.name}", stream)
