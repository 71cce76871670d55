"""The report for machines: every field, unrounded, as strict JSON under a schema number."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any

from mlc.judging import Report
from mlc.measuring import Trial
from mlc.types import Machine

SCHEMA = 1
"""Raised when a field is renamed, removed or changes its meaning; a new field leaves it as it is."""


def render(report: Report) -> str:
    """Return the whole report; the keys are the fields of the dataclasses."""
    return _dumped({"schema": SCHEMA, **_plain(report)})


def render_trials(trials: Sequence[Trial], machine: Machine | None = None) -> str:
    """Return what ``mlc bench`` measured."""
    return _dumped({"schema": SCHEMA, "trials": _plain(trials), "machine": _plain(machine)})


def render_fields(found: Any) -> str:
    """Return the fields of any dataclass of results, as of what ``mlc run`` and ``mlc inspect`` found."""
    return _dumped({"schema": SCHEMA, **_plain(found)})


def _dumped(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: infinity and NaN as strings, a path by its last part.

    Paths inside a report point into the folder of the run, which is gone when the report is read.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (str, bool, int)) or value is None else _leaf(value)


def _leaf(value: Any) -> float | str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, PurePath):
        return value.name
    number = float(value)
    if math.isnan(number):
        return "NaN"
    return number if math.isfinite(number) else "Infinity" if number > 0 else "-Infinity"
