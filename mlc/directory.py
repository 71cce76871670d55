"""A directory, or a file, is replaced whole or not at all: staged beside its place, synced, swapped in."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import psutil

from mlc.errors import OutputError, UsageError

MARK = "manifest.json"
"""The file that makes a directory one of ours; nothing else is ever replaced."""

PATIENCE = (0.05,) * 20
"""Seconds between the attempts to rename a folder on Windows, where scanners hold what was just written."""


def check_place(place: Path, *, force: bool) -> None:
    """Raise UsageError where a result could not be put: before hours of work, not after.

    An interrupted swap of an earlier run is recovered first, so that what was there counts as there.
    """
    place = _real(place)
    parent = next((folder for folder in place.parents if folder.exists()), None)
    if parent is None:
        raise UsageError(f"there is no folder that {place} could be written in", "choose another -o")
    if not parent.is_dir():
        raise UsageError(f"{parent} is a file, so {place} cannot be written in it", "choose another -o")
    _try(parent, place.parts[len(parent.parts)])
    if parent != place.parent:
        return
    recover(place)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not force:
        raise UsageError(f"the output {place} exists", "give --force to replace it, or choose another -o")
    if not place.is_dir():
        raise UsageError(f"the output {place} is a file", "choose another -o")
    if not (place / MARK).is_file():
        raise UsageError(
            f"{place} is not an artifact (it has no {MARK}), so it is not replaced", "choose another -o, or empty it"
        )


def _try(parent: Path, name: str) -> None:
    """Make a folder whose name is as long and as odd as the one to come, and remove it."""
    probe = _beside(parent / name, "try")
    try:
        probe.mkdir(exist_ok=True)
        probe.rmdir()
    except OSError as error:
        hint = "choose another -o, or change its permissions"
        raise UsageError(f"the folder {parent} cannot be written: {error.strerror}", hint) from error


@contextmanager
def replaced(place: Path, *, force: bool) -> Iterator[Path]:
    """Give an empty folder beside ``place``; at the end of the block it takes that place, whole.

    Whatever is raised inside, Ctrl-C too, leaves what was there as it was and removes the new folder.
    Raises UsageError as ``check_place`` and OutputError where the disk refuses.
    """
    check_place(place, force=force)
    place = _real(place)
    staging = _beside(place, "new")
    try:
        staging.mkdir(parents=True)
        try:
            yield staging
            _sync(staging)
            _swap(staging, place)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        remedy = "close what uses its files" if isinstance(error, PermissionError) else "free some space"
        raise OutputError(
            f"the output {place} could not be written: {error.strerror or error}",
            f"what was there before is as it was; {remedy} or choose another -o",
        ) from error


def check_file(place: Path, option: str, *, force: bool) -> None:
    """Raise UsageError where a file could not be put: before anything is read or run. ``option`` is what named it."""
    real = _real(place)
    if real.exists() and not force:
        raise UsageError(f"the output {place} exists", f"give --force to replace it, or choose another {option}")
    if (real.parent / MARK).is_file():
        raise UsageError(
            f"{place.parent} is an artifact, whose files are all listed in it: {place.name} would not belong there",
            f"choose another {option}",
        )
    if not real.parent.is_dir():
        raise UsageError(
            f"there is no folder {place.parent} to write {place.name} into", f"make it, or choose another {option}"
        )
    if not os.access(real.parent, os.W_OK):
        raise UsageError(f"the folder {place.parent} cannot be written", f"choose another {option}")


@contextmanager
def replaced_file(place: Path, option: str) -> Iterator[BinaryIO]:
    """Give a new file beside ``place``; at the end of the block it takes that place, whole.

    Raises OutputError where the disk refuses; then what was there is as it was. ``option`` is what named it.
    """
    real = _real(place)
    staging = _beside(real, "new")
    try:
        try:
            with staging.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            staging.replace(real)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        remedy = "" if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS) else "free some space or "
        hint = f"what was there before is as it was; {remedy}choose another {option}"
        raise OutputError(f"the output {place} could not be written: {error.strerror or error}", hint) from error


def recover(place: Path) -> None:
    """Put back what an interrupted swap left aside, and remove what killed runs left behind."""
    place = _real(place)
    for aside in _left_behind(place, "old"):
        if place.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(place)
    for staging in _left_behind(place, "new"):
        shutil.rmtree(staging, ignore_errors=True)


def remove(place: Path) -> bool:
    """Remove a directory whole; returns whether it went: Windows keeps one of which a file is in use."""
    place = _real(place)
    aside = _beside(place, "new")
    try:
        place.rename(aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def sweep(folder: Path) -> None:
    """Recover everything in a folder that killed runs left behind, whatever it was for."""
    names = {
        match.group(1) for path in folder.iterdir() if (match := re.match(r"\.(.+)\.mlc-(new|old)-\d+$", path.name))
    }
    for name in names:
        recover(folder / name)


def _left_behind(place: Path, kind: str) -> list[Path]:
    """Return folders of runs that are no longer alive, the newest first."""
    pattern = re.compile(re.escape(f".{place.name}.mlc-{kind}-") + r"(\d+)$")
    found = []
    for path in place.parent.iterdir():
        match = pattern.match(path.name)
        if match and not _alive(int(match.group(1))):
            found.append(path)
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _alive(pid: int) -> bool:
    return pid != os.getpid() and psutil.pid_exists(pid)


def _beside(place: Path, kind: str) -> Path:
    return place.parent / f".{place.name}.mlc-{kind}-{os.getpid()}"


def _real(place: Path) -> Path:
    """Follow links and make absolute, so that a link keeps pointing at what it points at."""
    return Path(os.path.realpath(place))


def _swap(staging: Path, place: Path) -> None:
    """Exchange in one step where the system can; else old aside, new in. The old one is deleted afterwards."""
    if sys.platform == "win32":
        gc.collect()  # graphs that nobody uses any more still map their files, which forbids to rename the folder
    if not place.exists():
        _rename(staging, place)
    elif _exchange(staging, place):
        shutil.rmtree(staging, ignore_errors=True)
    else:
        aside = _beside(place, "old")
        _rename(place, aside)
        try:
            _rename(staging, place)
        except OSError:
            _rename(aside, place)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _sync_folder(place.parent)


def _rename(old: Path, new: Path) -> None:
    """Rename a folder; on Windows again for a second where it is refused."""
    for seconds in PATIENCE if sys.platform == "win32" else ():
        try:
            old.rename(new)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    old.rename(new)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names atomically (Linux renameat2, macOS renamex_np); False where the system or file system cannot."""
    names = (os.fsencode(first), os.fsencode(second))
    swap = 2  # RENAME_EXCHANGE and RENAME_SWAP are both 2
    here = -100  # AT_FDCWD
    calls = {"linux": ("renameat2", (here, names[0], here, names[1], swap)), "darwin": ("renamex_np", (*names, swap))}
    if sys.platform not in calls:
        return False
    name, arguments = calls[sys.platform]
    library = ctypes.CDLL(None)
    return hasattr(library, name) and getattr(library, name)(*arguments) == 0


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make renames durable; Windows has no such call for folders."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
