"""A report that was written, read back: the same nouns, from which every form is rendered again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc.directory import MARK
from mlc.errors import SourceError, first_line
from mlc.judging import Report
from mlc.manifest import digest
from mlc.report.json import SCHEMA
from mlc.report.restoring import Restorer, Unfit

NAME = "report.json"
GIVE = f"give a directory that mlc wrote, or its {NAME}"
AGAIN = "compile the model again"


@dataclass(frozen=True)
class ReadReport:
    """A report as read: the place that was named, and the fields in it that this version does not know."""

    place: str
    report: Report
    unknown: tuple[str, ...] = ()


def read_report(place: Path) -> ReadReport:
    """Read the report of a directory that mlc wrote, or a report.json alone.

    In a directory the model's files have to be those that the report is about; a report alone speaks for itself.
    Raises SourceError, one sentence, for what is missing, corrupt, of a newer version, or no report.
    """
    if not place.exists():
        raise SourceError(f"there is no {place}", GIVE)
    file = place / NAME if place.is_dir() else place
    if not file.is_file():
        raise SourceError(f"{place} has no {NAME}", GIVE)
    content = _parsed(file)
    schema = content.pop("schema", None)
    if not isinstance(schema, int) or "recipe" not in content:
        raise SourceError(f"{file} is not a report of mlc compile or validate", GIVE)
    if schema > SCHEMA:
        raise SourceError(
            f"{file} was written by a newer mlc: its schema is {schema}, and this version reads {SCHEMA}", "update mlc"
        )
    restorer = Restorer()
    try:
        report = restorer.restore(content, Report, "report")
    except Unfit as unfit:
        raise SourceError(f"{file} cannot be read: {unfit}", AGAIN) from unfit
    if place.is_dir():
        check_model(place)
    return ReadReport(str(place), report, tuple(restorer.unknown))


def check_model(directory: Path) -> None:
    """Compare the model's files with the manifest, where there is one; the report's own may have been reformatted.

    Raises SourceError where one is missing or another: the report would be about a model that is not there.
    """
    if not (directory / MARK).is_file():
        return
    files = _parsed(directory / MARK).get("files")
    for name, entry in files.items() if isinstance(files, Mapping) else ():
        file = directory / name
        if ".onnx" not in file.suffixes:
            continue
        if not file.is_file():
            raise SourceError(f"{file} is missing, so the report is about a model that is not there", GIVE)
        if not isinstance(entry, Mapping) or digest(file) != entry.get("sha256"):
            raise SourceError(f"{file} is not the model that the report is about: its digest differs", AGAIN)


def _parsed(file: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds. Raises SourceError."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}", GIVE) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file} is not JSON: {_where(error)}", GIVE) from error
    if not isinstance(content, dict):
        raise SourceError(f"{file} is not a report of mlc compile or validate", GIVE)
    return content


def _where(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[:1].lower()}{error.msg[1:]} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return "it is nested too deep" if isinstance(error, RecursionError) else first_line(error)
