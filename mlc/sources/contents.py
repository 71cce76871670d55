"""What a file of torch's holds, found out without unpickling anything: names in a zip archive, opcodes of a pickle."""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from mlc.errors import SourceError

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
"""How archives and pickles begin."""

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that torch.save wrote first, before it wrote zip archives."""

HEAD = 3
"""How many pickles of a file without an archive come before the object: the number, a version, the machine."""

PASSED_OVER = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "MARK"}
"""Opcodes that say nothing of what is pickled."""

STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "UNICODE"}

DICTS = {"dict", "collections.OrderedDict"}

OTHERS = {b"\x89HDF": "an HDF5 file", b"version https://git-lfs": "a pointer of Git LFS in the place of a file"}
"""What files are that are named like torch's and begin like this."""

TRUST = "give --trust (trust=True in Python) where you know who made it"
"""What to do about a file that can run code."""


DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, EOFError, OverflowError, MemoryError,
    StopIteration,
)  # fmt: skip
"""What reading an archive or a pickle raises where it is not as it should be."""

LONGEST = 200
"""How much of a name that stands in a file is said."""


class Kind(Enum):
    """What a file holds, as it stands in a sentence."""

    PROGRAM = "a program of torch.export"
    COMPILED = "a package that torch compiled for one machine"
    TORCHSCRIPT = "a TorchScript archive"
    DICT = "a dict"
    TENSOR = "a tensor"
    VALUE = "a list or another plain value"
    OBJECT = "a pickled object"


@dataclass(frozen=True)
class Contents:
    """The kind, the class of a pickled object where it is one, and whether it lies in an archive, which can be mapped.

    ``programs`` names those of an archive of torch.export.
    """

    kind: Kind
    pickled: str = ""
    archive: bool = True
    programs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"a pickled {self.pickled}" if self.kind is Kind.OBJECT else self.kind.value


def look(path: Path) -> Contents:
    """Return what a file holds. Raises SourceError for one that is missing, empty, damaged, or none of torch's."""
    if not path.exists():
        raise SourceError(f"there is no file {path}", "check the path")
    if path.is_dir():
        raise SourceError(f"{path} is a directory", "name the file in it")
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty", "write it again")
    try:
        with path.open("rb") as file:
            start = file.read(32)
            file.seek(0)
            if start.startswith(ZIP):
                return _in_archive(path)
            if start.startswith(PICKLE):
                return _in_pickles(path, file)
    except OSError as closed:
        raise SourceError(f"{path} cannot be read: {closed.strerror}", "check its permissions") from closed
    except DAMAGED as bad:
        raise SourceError(f"{path} is damaged or cut off", "copy or write it again") from bad
    what = next((other for begin, other in OTHERS.items() if start.startswith(begin)), "no file that torch wrote")
    raise SourceError(f"{path} is {what}", "give what torch.save or torch.export.save wrote")


def _in_archive(path: Path) -> Contents:
    with zipfile.ZipFile(path) as archive:
        inside = {name.partition("/")[2]: name for name in archive.namelist()}
        files = [name for name in inside if name.startswith("models/") and name.endswith(".json")]
        programs = tuple(printable(name.removeprefix("models/").removesuffix(".json")) for name in files)
        if "serialized_exported_program.json" in archive.namelist():  # as torch wrote it up to 2.7
            programs = ("model",)
        if programs:
            return Contents(Kind.PROGRAM, programs=programs)
        if any(name.startswith("data/aotinductor/") for name in inside):
            return Contents(Kind.COMPILED)
        if "data.pkl" not in inside:
            raise SourceError(f"{path} is an archive, but none of torch's", "give what torch.save wrote")
        if "constants.pkl" in inside:
            return Contents(Kind.TORCHSCRIPT)
        with archive.open(inside["data.pkl"]) as stream:
            return _contents(_pickled(stream), archive=True)


def _in_pickles(path: Path, file: IO[bytes]) -> Contents:
    first = next(argument for code, argument, _ in pickletools.genops(file) if code.name not in PASSED_OVER)
    if first != MAGIC:
        raise SourceError(f"{path} is a pickle, but none of torch's", "write it with torch.save")
    file.seek(0)
    for _ in range(HEAD):
        for _ in pickletools.genops(file):
            pass  # to its end
    return _contents(_pickled(file), archive=False)


def _contents(pickled: str, *, archive: bool) -> Contents:
    if not pickled:
        return Contents(Kind.VALUE, archive=archive)
    if pickled in DICTS:
        return Contents(Kind.DICT, archive=archive)
    if pickled.startswith("torch._utils._rebuild_"):
        return Contents(Kind.TENSOR, archive=archive)
    return Contents(Kind.OBJECT, printable(pickled), archive)


def printable(name: str) -> str:
    """Return a name that a file gives as it may be shown: what a terminal would obey is left out."""
    return "".join(letter for letter in name if letter.isprintable())[:LONGEST]


def _pickled(stream: IO[bytes]) -> str:
    """Return the class or function that makes the outermost object: a pickle names it first. Nothing for a value."""
    strings: list[str] = []
    for code, argument, _ in _opcodes(stream):
        if code == "GLOBAL":
            return str(argument).replace(" ", ".")
        if code == "STACK_GLOBAL":
            return ".".join(strings[-2:])
        if code not in STRINGS:
            return "dict" if code in {"EMPTY_DICT", "DICT"} else ""
        strings.append(str(argument))
    return ""


def _opcodes(stream: IO[bytes]) -> Iterator[tuple[str, object, int | None]]:
    for code, argument, position in pickletools.genops(stream):
        if code.name not in PASSED_OVER:
            yield code.name, argument, position
