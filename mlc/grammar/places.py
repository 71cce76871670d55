"""Texts that name models and data: ``file.py:function@weights``, where paths may have a drive or an ``@`` too."""

from __future__ import annotations

import re

_DRIVE = r"(?:[\\/]{2}[?.][\\/])?[A-Za-z]:[\\/]"
"""How absolute paths of Windows begin: their colon is that of no function."""

_BEFORE_WEIGHTS = (r":[^\W\d]\w*@", r"\.(?:onnx|keras|pt2?|pth|bin|torchscript)@")
"""What stands before the weights: a function, else the ending of a model that brings its own."""


def split_weights(source: str) -> tuple[str, str | None]:
    """Return the model and its weights, None where none are named; an ``@`` in the name of a folder means nothing."""
    for before in _BEFORE_WEIGHTS:
        found = re.search(before, source, re.IGNORECASE)
        if found is not None:
            return source[: found.end() - 1], source[found.end() :]
    return source, None


def names_function(text: str) -> bool:
    """Return whether a text is written as ``file.py:function`` or ``package.module:function`` rather than as a path."""
    return ":" in re.sub(rf"^{_DRIVE}", "", text)


def is_file(place: str) -> bool:
    """Return whether what stands before the function is a file rather than a module."""
    return place.lower().endswith(".py") or "/" in place or "\\" in place
