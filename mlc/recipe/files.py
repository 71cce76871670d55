"""The file parts of what a recipe names, which move with the recipe file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlc.errors import UsageError
from mlc.grammar.places import is_file, names_function, split_weights

if TYPE_CHECKING:
    from mlc.recipe.recipe import Recipe

LIVE = "python:"
"""Begins what stands for a live Python object: its digest follows."""


def _source_files(text: str, place: Callable[[str], str]) -> str:
    """Move the file parts of ``file.py:function@weights`` or ``model.onnx``; a module and a live object have none."""
    if text.startswith(LIVE):
        return text
    model, weights = split_weights(text)
    return _reference_files(model, place) + ("" if weights is None else f"@{place(weights)}")


def _reference_files(text: str, place: Callable[[str], str]) -> str:
    """Move the file of ``file.py:function``, or a file alone; ``package.module:function`` is left alone."""
    if text.startswith(LIVE):
        return text
    if not names_function(text):
        return place(text)
    name, _, function = text.rpartition(":")
    if is_file(name):
        return f"{place(name)}:{function}"
    return text if all(part.isidentifier() for part in (*name.split("."), function)) else place(text)


def _metric_files(text: str, place: Callable[[str], str]) -> str:
    return _reference_files(text, place) if ":" in text else text


FILES: dict[str, Callable[[str, Callable[[str], str]], str]] = {
    "source": _source_files,
    "calibrate": _reference_files,
    "statistics": lambda text, place: place(text),
    "data": _reference_files,
    "plan": lambda text, place: place(text),
    "metric": _metric_files,
}
"""Moves the files that a field names by a function from path to path."""


def check_apart(recipe: Recipe, out: Path) -> None:
    """Raise UsageError where the output would hold, and so replace, what the recipe reads."""
    for field, move in FILES.items():
        named: list[str] = []

        def note(part: str, named: list[str] = named) -> str:
            named.append(part)
            return part

        move(getattr(recipe, field) or "", note)
        inside = [part for part in named if part and Path(part).resolve().is_relative_to(out.resolve())]
        if inside:
            what = "the source itself" if field == "source" else f"what {field} reads, {inside[0]}"
            raise UsageError(f"the output {out} holds {what}", "choose another -o")


def from_folder(part: str, folder: Path) -> str:
    """Return a path that is relative to a folder relative to the working directory; outside of it absolute.

    It is written with forward slashes, as in the file.
    """
    if not part.strip():
        return part
    here = Path.cwd()
    path = Path(os.path.normpath(Path(os.path.realpath(folder)) / part))
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def to_folder(part: str, folder: Path) -> str:
    """Return a path relative to a folder; links are followed in folders, not in the file itself.

    It is written with forward slashes, which every system reads; from another drive of Windows it is absolute.
    """
    path = Path(part)
    real = Path(os.path.realpath(path.parent)) / path.name
    try:
        return Path(os.path.relpath(real, os.path.realpath(folder))).as_posix()
    except ValueError:
        return real.as_posix()
