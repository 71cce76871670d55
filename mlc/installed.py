"""Which files belong to Python or to an installed package, and which are the user's own."""

from __future__ import annotations

import functools
from pathlib import Path

FOLDERS = ("site-packages", "dist-packages")
"""What folders that packages are installed into are called."""


def is_installed(file: Path) -> bool:
    """Return whether a file belongs to Python itself or to an installed package."""
    return package_of(file) is not None or not _python().isdisjoint(file.parents)


def package_of(file: Path) -> str | None:
    """Return the top-level name of the installed package that a file belongs to, or None where it is none's."""
    places = [index for index, part in enumerate(file.parts) if part in FOLDERS]
    if places and places[-1] + 1 < len(file.parts):
        return _name(file.parts[places[-1] + 1])
    if elsewhere := _elsewhere():
        return next((_name(one.name) for one in (file, *file.parents) if one in elsewhere), None)
    return None


def _name(part: str) -> str:
    return part.removesuffix(".py")


@functools.cache
def _python() -> frozenset[Path]:
    """Return the folders of Python itself and of what is installed for it."""
    import sysconfig

    return frozenset(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@functools.cache
def _elsewhere() -> frozenset[Path]:
    """Return the modules and packages that lie in folders of other names, as ``pip install --target`` leaves them.

    Only what the record of an installation lists: code of the user's own may lie beside it.
    """
    from importlib import metadata  # half of what it takes to load the errors, which every command does

    found = set()
    for one in metadata.distributions():
        folder = Path(str(one.locate_file("")))
        if folder.name in FOLDERS or folder in _python():
            continue
        files = one.files or ()
        if any(file.name == "RECORD" for file in files):
            found |= {folder / file.parts[0] for file in files if len(file.parts) > 1 or file.suffix == ".py"}
    return frozenset(found)
