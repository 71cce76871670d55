"""A ``.keras`` file."""

from __future__ import annotations

import re
import sys
import warnings
import zipfile
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from mlc.errors import SourceError, UsageError, first_line, foreign
from mlc.references import near
from mlc.sources.asked import Asked
from mlc.sources.keras.backend import check_backend, on_torch, only_torch
from mlc.sources.original import Original

INSTALL = "pip install 'mlc-toolchain[keras]'"

SAFE = (3, 13, 2)
"""The first version of Keras whose safe mode has no known way around it."""

SAVE = "copy it again, or save it again: model.save('model.keras')"

MISSING = re.compile(r"Could not locate (\w+) '([^']+)'")
"""How Keras says that a class or a function of a model is not among those that it knows."""


def opens(asked: Asked) -> bool:
    """Whether the source is written as a .keras file."""
    return asked.reference.lower().endswith(".keras")


def load(asked: Asked) -> Original:
    """Return the model in the file as an Original.

    Raises UsageError where the file holds code, such as a lambda, and it is not trusted; SourceError where it cannot be
    read, or needs code that is not in it.
    """
    path = Path(asked.reference)
    if asked.weights is not None:
        raise UsageError("a .keras file has its own weights", f"write {path}")
    if not path.is_file():
        files = [file.name for file in path.parent.glob("*.keras")] if path.parent.is_dir() else []
        raise SourceError(f"there is no file {path}", near(path.name, files) if files else "check the path")
    if not zipfile.is_zipfile(path):
        raise SourceError(f"{path} is no .keras file, which is a zip archive", SAVE)
    keras = _keras()
    from mlc.sources.keras.model import KerasOriginal

    check_backend()
    model = _read(keras, path, trust=asked.trust)
    return KerasOriginal(model, asked.inputs, asked.example, source=asked.source, code=path)


def _keras() -> Any:
    """Import Keras with its torch backend, and leave the user's home as it is. Raises SourceError for an unsafe one."""
    with nullcontext() if "keras" in sys.modules else only_torch():
        try:
            import keras
        except ImportError as missing:
            raise SourceError(
                f"a .keras file needs the package keras, which cannot be imported: {first_line(missing)}", INSTALL
            ) from missing
    if tuple(int(part) for part in re.findall(r"\d+", keras.__version__)[:3]) < SAFE:
        raise SourceError(f"keras {keras.__version__} may run code from a .keras file that it reads", INSTALL)
    return keras


def _read(keras: Any, path: Path, *, trust: bool) -> Any:
    try:
        with foreign(f"reading {path}"), on_torch(), warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except SourceError as failed:
        said = str(failed.__cause__)
        missing = MISSING.search(said)
        if missing:
            raise SourceError(
                f"{path} needs the {missing[1]} {missing[2]}, whose code is not in the file",
                "load it in a function beside that code, and name the function: file.py:function",
            ) from failed
        if "safe_mode" in said:
            raise UsageError(
                f"{path} holds code that would run when it is loaded, such as a lambda",
                "give --trust (trust=True in Python) where you know who made it",
            ) from failed
        reason = said.rpartition("Exception encountered: ")[2].partition("\n")[0] or first_line(failed)
        raise SourceError(f"keras {keras.__version__} cannot read {path}: {reason[:300]}", SAVE) from failed
