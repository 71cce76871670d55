"""Arrays by name in a file: read without running anything in it, written whole or not at all."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mlc.data.arrays import BROKEN
from mlc.directory import check_file, replaced_file
from mlc.errors import DataError, UsageError, kind_of

if TYPE_CHECKING:
    from mlc.types import Array, Arrays

HINT = "write it with numpy.savez, each array under the name of its input"

OPTION = "--out"


def read_arrays(path: Path) -> dict[str, Array] | Array:
    """Return the arrays of an .npz file by name, or the one of an .npy file, in this machine's byte order.

    Raises DataError for a file that is missing, corrupt, or holds Python objects.
    """
    if not path.exists():
        raise DataError(f"there is no file {path}", "check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file", "name an .npz file")
    if path.stat().st_size == 0:
        raise DataError(f"the file {path} is empty", HINT)
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _native(loaded)
            with loaded:
                return {name: _native(_array(path, name, loaded[name])) for name in loaded.files}
    except (*BROKEN, MemoryError, KeyError) as error:
        reason = "it holds Python objects, or is no file of arrays" if "pickle" in str(error) else str(error)
        raise DataError(f"the file {path} cannot be read as arrays: {reason or type(error).__name__}", HINT) from error
    except OSError as error:
        raise DataError(
            f"the file {path} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error


def _array(path: Path, name: str, value: object) -> Array:
    if not isinstance(value, np.ndarray):
        raise DataError(f"{path} holds {name!r}, which is {kind_of(value)} and not an array", HINT)
    return value


def _native(array: Array) -> Array:
    """Return the array in this machine's byte order: the runtime reads the bytes as they are."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_out(out: Path, arrays: Path | None, *, force: bool) -> None:
    """Raise UsageError where the outputs could not be put: before the model runs, not after."""
    place = Path(os.path.realpath(out))
    if out.suffix != ".npz":
        raise UsageError(f"the output {out} does not end in .npz", "outputs are written as one .npz file")
    if place.exists() and not place.is_file():
        raise UsageError(f"the output {out} exists and is not a file", "choose another --out")
    if arrays is not None and place == Path(os.path.realpath(arrays)):
        raise UsageError(f"the output {out} is the file that --in reads", "choose another --out")
    check_file(out, OPTION, force=force)


def write_arrays(out: Path, arrays: Arrays) -> None:
    """Write an .npz file beside its place and move it there: equal arrays give equal bytes.

    Raises OutputError where the disk refuses; then what was there is as it was.
    """
    with replaced_file(out, OPTION) as file:
        _write_archive(file, arrays)


def _write_archive(file: BinaryIO, arrays: Arrays) -> None:
    """Write members one by one: numpy.savez takes names as keywords, of which some are its own."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
