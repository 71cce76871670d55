"""Plain data back into dataclasses: the way of ``mlc.report.json`` in the other direction.

Numbers come back as they were written, an integer in the place of a float too, so that what is written again is the
same; texts may hold what is no Unicode, as names of files do. Fields that are not known are noted, those that are
missing have their defaults.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePath
from typing import Any, Union, get_args, get_origin, get_type_hints

from mlc.errors import kind_of

NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How JSON holds the floats that it has no word for."""

LARGEST = sys.float_info.max
"""Integers beyond have no place where a float is meant."""


class Unfit(Exception):  # noqa: N818 - not an error of the user's until somebody says of which file
    """Data that do not have the shape asked for; the text is the end of a sentence: ``trials[0] has no name``."""


@dataclass
class Restorer:
    """Builds values of the kinds that type hints state; ``unknown`` are the fields that no dataclass has."""

    unknown: list[str] = field(default_factory=list)

    def restore(self, value: Any, kind: Any, at: str) -> Any:
        """Return a value of a kind; ``at`` is where it stands. Raises Unfit."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in {Union, types.UnionType}:
            return self._any_of(value, arguments, at)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._noun(_expected(value, dict, "an object", at), kind, at)
        if origin is tuple:
            return self._items(_expected(value, list, "a list", at), arguments, at)
        if origin is not None and issubclass(origin, Mapping):
            entries = _expected(value, dict, "an object", at)
            return {key: self.restore(each, arguments[1], f"{at}.{key}") for key, each in entries.items()}
        return _leaf(value, kind, at)

    def _any_of(self, value: Any, kinds: tuple[Any, ...], at: str) -> Any:
        """Return what a union holds: a value whose type is one of them as it is, else the first that it fits."""
        if type(value) in kinds:
            return value
        problems = []
        for kind in kinds:
            try:
                return self.restore(value, kind, at)
            except Unfit as unfit:
                problems.append(unfit)
        raise problems[0]

    def _noun(self, entries: Mapping[str, Any], kind: Any, at: str) -> Any:
        fields = {each.name: each for each in dataclasses.fields(kind)}
        hints = _hints(kind)
        self.unknown += [f"{at}.{name}" for name in entries if name not in fields]
        given = {name: self.restore(entries[name], hints[name], f"{at}.{name}") for name in fields if name in entries}
        for name, each in fields.items():
            if name not in given and each.default is each.default_factory is dataclasses.MISSING:
                raise Unfit(f"{at} has no {name}")
        return kind(**given)

    def _items(self, values: list[Any], kinds: tuple[Any, ...], at: str) -> tuple[Any, ...]:
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(values)
        if len(values) != len(kinds):
            raise Unfit(f"{at} has {len(values)} entries, not {len(kinds)}")
        pairs = zip(values, kinds, strict=True)
        return tuple(self.restore(value, kind, f"{at}[{place}]") for place, (value, kind) in enumerate(pairs))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _expected(value: Any, kind: type, called: str, at: str) -> Any:
    if not isinstance(value, kind):
        raise Unfit(f"{at} is {kind_of(value)}, not {called}")
    return value


def _leaf(value: Any, kind: Any, at: str) -> Any:
    if kind is float and not isinstance(value, bool):
        if isinstance(value, str) and value in NUMBERS:
            return NUMBERS[value]
        if not isinstance(value, int | float) or abs(value) > LARGEST:
            raise Unfit(f"{at} is {kind_of(value)}, not a number that a float can hold")
        return value
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return kind(_expected(value, str, "a text", at))
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Unfit(f"{at} is {kind_of(value)}, not {kind.__name__}")
    return value
