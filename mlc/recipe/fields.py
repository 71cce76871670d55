"""The fields of a recipe one by one: what a flag, a TOML value or a keyword argument stands for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlc.errors import UsageError, kind_of
from mlc.grammar import nearest, within
from mlc.grammar.formats import parse_format
from mlc.grammar.images import Images, images_text, parse_images, settings_text
from mlc.grammar.inputs import input_text, parse_inputs
from mlc.grammar.values import (
    drop_text,
    parse_drop,
    parse_pass,
    parse_sizes,
    parse_target,
    positive,
    sizes_text,
    whole_number,
)
from mlc.types_asked import Drop, InputSpec, PassSpec, Target

NO_DEFAULTS = "none"
"""In the place of a pass: switches the default passes off."""

LARGEST_SEED = 2**32 - 1


def read_fields(given: Mapping[str, Any], name: Callable[[str], str] = str) -> dict[str, Any]:
    """Return the fields of a recipe that are given, and its limits below ``limits``.

    Keys are the fields of Recipe and Limits (``passes`` may hold ``none``); None is not given. Values are texts of the
    grammar, or what they stand for. ``name`` says how a key was written, such as ``--max-drop``, for errors.
    Raises UsageError for an unknown key, a wrong type and a wrong text.
    """
    changes: dict[str, Any] = {"limits": {}}
    for key, value in given.items():
        if key == "limits":
            raise UsageError("limits are given by their own names", f"give {', '.join(LIMITS)}")
        if key not in FIELDS and key not in LIMITS:
            raise UsageError(f"there is no {name(key)!r} in a recipe", nearest(key, [*FIELDS, *LIMITS]))
        if value is None:
            continue
        with within(name(key)):
            if key in LIMITS:
                changes["limits"][key] = LIMITS[key](value)
            else:
                changes |= FIELDS[key](value)
    return changes


def text_of(value: Any) -> str:
    """Return a text that is not empty and can be written to a file. Raises UsageError."""
    if not isinstance(value, str):
        raise UsageError(f"expected text, given {_kind(value)}")
    if not value.strip():
        raise UsageError("the text is empty")
    if value.encode("utf-8", "ignore").decode() != value:
        raise UsageError(f"{value!r} is not text", "give it in UTF-8")
    return value


def place_of(value: Any) -> str:
    """Return a text that can be the name of a file or function, with forward slashes on Windows. Raises UsageError."""
    if "\0" in text_of(value):
        raise UsageError(f"{value!r} is not text", "a name has no zero bytes")
    return str(value).replace("\\", "/") if sys.platform == "win32" else str(value)


def _texts(value: Any, kind: type) -> list[Any]:
    """Return a list of texts or nouns; one alone is a wrong type, since a string is a sequence too."""
    if isinstance(value, (str, kind)) or not isinstance(value, Sequence):
        raise UsageError(f"expected a list, given {_kind(value)}", "put it into [ ]")
    return [item if isinstance(item, kind) else text_of(item) for item in value]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"expected a number, given {_kind(value)}")
    return value


def _whole(value: Any, what: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"expected a whole number, given {_kind(value)}")
    return whole_number(value, what, low, high)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"expected true or false, given {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else kind_of(value)


def _inputs(value: Any) -> tuple[InputSpec, ...]:
    items = _texts(value, InputSpec)
    return parse_inputs([input_text(item) if isinstance(item, InputSpec) else item for item in items])


def _passes(value: Any) -> dict[str, Any]:
    specs = [item if isinstance(item, PassSpec) else parse_pass(item) for item in _texts(value, PassSpec)]
    for spec in specs:
        if spec.name == NO_DEFAULTS and spec.options:
            raise UsageError(f"the pass {NO_DEFAULTS} has no options", "it switches the default passes off")
    passes = tuple(spec for spec in specs if spec.name != NO_DEFAULTS)
    return {"passes": passes, "defaults": len(passes) == len(specs)}


def _target(value: Any) -> Target:
    return value if isinstance(value, Target) else parse_target(text_of(value))


def _drop(value: Any) -> Drop:
    if isinstance(value, Drop):
        value = drop_text(value)
    return parse_drop(value if isinstance(value, str) else repr(_number(value)))


def _sizes(value: Any) -> dict[str, int]:
    return parse_sizes(sizes_text(dict(value)) if isinstance(value, Mapping) else text_of(value))


def _images(value: Any) -> Images:
    if isinstance(value, Images):
        value = images_text(value)
    return parse_images(settings_text(value) if isinstance(value, Mapping) else text_of(value))


def _opset(value: Any) -> int:
    return _whole(value, "the opset", 1, 99)


FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "source": lambda value: {"source": place_of(value)},
    "inputs": lambda value: {"inputs": _inputs(value)},
    "passes": _passes,
    "to": lambda value: {"to": parse_format(text_of(value))},
    "keep_float": lambda value: {"keep_float": tuple(text_of(item) for item in _texts(value, str))},
    "plan": lambda value: {"plan": place_of(value)},
    "target": lambda value: {"target": _target(value)},
    "calibrate": lambda value: {"calibrate": place_of(value)},
    "statistics": lambda value: {"statistics": place_of(value)},
    "data": lambda value: {"data": place_of(value)},
    "images": lambda value: {"images": _images(value)},
    "metric": lambda value: {"metric": place_of(value)},
    "at": lambda value: {"at": _sizes(value)},
    "opset": lambda value: {"opset": _opset(value)},
    "seed": lambda value: {"seed": _whole(value, "the seed", 0, LARGEST_SEED)},
    "strict": lambda value: {"strict": _flag(value)},
    "strict_provider": lambda value: {"strict_provider": _flag(value)},
    "portable": lambda value: {"portable": _flag(value)},
    "freeze": lambda value: {"freeze": _flag(value)},
    "task": lambda value: {"task": text_of(value)},
}
"""How each field is read, into the fields of Recipe that it decides."""

LIMITS: dict[str, Callable[[Any], Any]] = {
    "max_drop": _drop,
    "max_latency": lambda value: positive(_number(value), "the largest latency in ms"),
    "min_speedup": lambda value: positive(_number(value), "the smallest speedup"),
    "max_size": lambda value: positive(_number(value), "the largest size in MB"),
}
"""How each limit is read."""
