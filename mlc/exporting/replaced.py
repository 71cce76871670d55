"""A function of a library that is another one while a module is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, by: Callable[[Any], Any]) -> Iterator[None]:
    """Let ``owner.name`` be inside the block what ``by`` makes of it."""
    own = getattr(owner, name)
    kept = vars(owner).get(name, own)  # as it stands there: of a class it may be no plain function
    inherited = isinstance(owner, type) and name not in vars(owner)
    setattr(owner, name, by(own))
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, kept)
