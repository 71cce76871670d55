"""How Keras gets its torch backend; light enough to be asked of every function that may return a Keras model."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlc.errors import SourceError

BACKEND, HOME = "KERAS_BACKEND", "KERAS_HOME"
"""Environment variables that Keras reads when it is first imported: the framework, and the folder of its settings."""


NUMBERS = "object_name_uids"
"""Under which Keras keeps how many layers of each kind it has named."""


def is_keras(value: object) -> bool:
    """Whether a value is a layer or a model of Keras 3; nothing is imported."""
    kind = getattr(sys.modules.get("keras"), "Layer", None)
    return isinstance(kind, type) and isinstance(value, kind)


def check_backend() -> None:
    """Raise SourceError where Keras, imported already, computes with another framework than torch."""
    backend = sys.modules["keras"].config.backend()
    if backend != "torch":
        raise SourceError(
            f"Keras computes with {backend} here, and is exported through its torch backend",
            f"set {BACKEND}=torch before keras is imported; a .keras file loads on any backend",
        )


@contextmanager
def on_torch() -> Iterator[None]:
    """Let Keras choose torch where it is first imported inside the block and nobody chose a backend.

    Layers made inside are numbered from the start, as in a fresh process: a model has the same names every time.
    """
    state = sys.modules.get("keras.src.backend.common.global_state")
    if state is not None:
        numbers = state.get_global_attribute(NUMBERS)
        state.set_global_attribute(NUMBERS, None)
        try:
            yield
        finally:
            state.set_global_attribute(NUMBERS, numbers)
        return
    with _environment({} if BACKEND in os.environ else {BACKEND: "torch"}):
        yield


@contextmanager
def only_torch() -> Iterator[None]:
    """Let Keras choose torch, whatever is chosen outside, and read no settings where it would have to write them."""
    settings = Path("~/.keras/keras.json").expanduser()
    with tempfile.TemporaryDirectory(prefix="mlc-") as folder:
        home = {} if HOME in os.environ or settings.is_file() else {HOME: folder}
        with _environment({BACKEND: "torch"} | home):
            yield


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
