"""Exports that were made before: one directory each, whole or not there, compared like fresh ones when taken."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mlc.artifact import Way, write_model
from mlc.directory import MARK, remove, replaced, sweep
from mlc.errors import MlcError, SourceError, foreign
from mlc.exporting.translation import Doubt, Translation
from mlc.manifest import digest
from mlc.workspace import initializers

SCHEMA = 5

LIMIT = 8 * 10**9
"""Bytes that all exports may take together; the ones that were not used for the longest time are removed."""

VARIABLE = "MLC_CACHE_DIR"
"""The environment variable that names another folder."""


@dataclass(frozen=True)
class Entry:
    """One export that is kept: its folder, its size in bytes and when it was last taken (seconds since the epoch)."""

    folder: Path
    size: int
    used: float


class Cache:
    """A folder of exports by fingerprint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> Translation | None:
        """Return an export whose files are what was written, else None; what is damaged is removed."""
        place = self.folder / key
        if not place.is_dir():
            return None
        try:
            with foreign("the cache"):
                told = json.loads((place / MARK).read_text(encoding="utf-8"))
                _check(place, told)
                model = ir.load(place / "model.onnx")
        except SourceError:
            self.remove(key)
            return None
        with contextlib.suppress(OSError):  # a cache that only others write serves all the same
            os.utime(place)
        doubt, ways = _doubt(told["doubt"]), _ways(told["ways"])
        return Translation(model, told["exporter"], tuple(told["notes"]), doubt, ways, *map(tuple, told["asked"]))

    def store(self, key: str, made: Translation) -> str:
        """Keep an export; returns why it could not be kept, empty where it was. Never raises: an export is no worse."""
        weights = sum(value.const_value.nbytes for value in initializers(made.model) if value.const_value is not None)
        if weights > LIMIT:
            return f"its weights take more than the {LIMIT / 1e9:g} GB that the cache may"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            with replaced(self.folder / key, force=True) as staging:
                write_model(made.model, staging)
                files = {path.name: digest(path) for path in sorted(staging.iterdir())}
                told = {
                    "schema": SCHEMA, "exporter": made.exporter, "notes": made.notes, "doubt": _told(made.doubt),
                    "ways": [asdict(way) for way in made.ways], "asked": [made.asked, made.checks], "files": files,
                }  # fmt: skip
                (staging / MARK).write_text(json.dumps(told, indent=1), encoding="utf-8", newline="\n")
        except (MlcError, OSError) as refused:
            return str(refused)
        self._shrink(key)
        return ""

    def remove(self, key: str) -> None:
        """Forget one export."""
        remove(self.folder / key)

    def entries(self) -> tuple[Entry, ...]:
        """Return all exports that are kept, the latest used first."""
        found = []
        for place in self.folder.iterdir() if self.folder.is_dir() else ():
            with contextlib.suppress(OSError):  # another process may clear it meanwhile
                if (place / MARK).is_file():
                    size = sum(path.stat().st_size for path in place.iterdir())
                    found.append(Entry(place, size, place.stat().st_mtime))
        return tuple(sorted(found, key=lambda entry: -entry.used))

    def clear(self) -> int:
        """Remove all exports, and what killed runs left; returns how many exports went: those in use may stay."""
        gone = sum(remove(entry.folder) for entry in self.entries())
        if self.folder.is_dir():
            sweep(self.folder)
        return gone

    def _shrink(self, newest: str) -> None:
        total = 0
        for entry in self.entries():
            total += entry.size
            if total > LIMIT and entry.folder.name != newest:
                remove(entry.folder)


def default_cache() -> Cache:
    """Return the cache of this user: in the folder that the environment names, else where the system keeps caches."""
    from platformdirs import user_cache_path

    named = os.environ.get(VARIABLE)
    return Cache(Path(named) if named else user_cache_path("mlc", appauthor=False) / "exports")


def _told(doubt: Doubt | None) -> dict[str, Any] | None:
    """Return a doubt as plain data."""
    if doubt is None:
        return None
    return {"sizes": doubt.sizes, "message": doubt.refused.message, "hint": doubt.refused.hint}


def _ways(told: list[dict[str, str]]) -> tuple[Way, ...]:
    """Return the ways that were tried from plain data."""
    return tuple(Way(**way) for way in told)


def _doubt(told: dict[str, Any] | None) -> Doubt | None:
    """Return a doubt from plain data."""
    return None if told is None else Doubt(tuple(told["sizes"]), SourceError(told["message"], told["hint"]))


def _check(place: Path, told: dict[str, object]) -> None:
    """Raise SourceError where a file is missing or is not what was written."""
    files = told["files"]
    assert isinstance(files, dict)
    if told["schema"] != SCHEMA or any(digest(place / name) != known for name, known in files.items()):
        raise SourceError(f"{place} is not what was written")
