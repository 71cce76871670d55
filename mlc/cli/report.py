"""``mlc report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlc.cli import options as o
from mlc.cli.output import note, result
from mlc.errors import UsageError
from mlc.grammar import nearest

if TYPE_CHECKING:
    from mlc.report.reading import ReadReport
    from mlc.report.sheet import Sheet

FORMS = {"text": ".txt", "md": ".md", "html": ".html", "json": ".json"}
"""The forms of a report, and how the names of their files end."""

PLACES = "What a run wrote: its directory, or its report.json alone; of --gate the old run, then the new one."

Places = Annotated[list[str], typer.Argument(metavar="DIR", help=PLACES, show_default=False)]
Gate = Annotated[bool, typer.Option("--gate", help="Exit 1 where accuracy, latency or size got worse from OLD to NEW.")]
Form = Annotated[str | None, o.option("--format", "FORM", "text, md, html or json (as FILE ends, else text).")]
Out = Annotated[str | None, o.option("--out", "FILE", "Where to write it (stdout).", "-o")]
Force = Annotated[bool, typer.Option("--force", help="Replace a FILE that exists.")]
Strict = Annotated[bool, typer.Option("--strict", help="With --gate: exit 1 where something cannot be compared, too.")]


def report(
    *,
    places: Places,
    gate: Gate = False,
    form: Form = None,
    out: Out = None,
    force: Force = False,
    strict: Strict = False,
    json: o.Json = False,
    debug: o.Debug = False,  # noqa: ARG001 - main has read it
) -> int:
    """Show the report of a run again, or of several side by side.

    With --gate two runs, OLD and NEW: is the new one worse beyond the noise? Needs no model and no runtime.
    """
    _refuse(places, gate=gate, strict=strict, force=force, out=out)
    place = None if out is None else o.given("--out", _file, out)
    chosen = _form(form, place, as_json=json)
    if place is not None:
        from mlc.report.writing import check_file

        check_file(place, force=force)
    runs = _read(places)
    if gate:
        return _gated(runs, chosen, place, strict=strict)
    if len(runs) == 1:
        _give(_one(runs[0], chosen), place, runs[0].report.first_line)
        return 0
    from mlc.report import side_by_side
    from mlc.report.json import render_fields

    compared = side_by_side.compare_runs([run.place for run in runs], [run.report for run in runs])
    text = render_fields(compared) if chosen == "json" else _sheet(side_by_side.sheet(compared), chosen)
    _give(text, place, compared.first_line)
    return 0


def _refuse(places: Sequence[str], *, gate: bool, strict: bool, force: bool, out: str | None) -> None:
    """Refuse what could only be ignored. Raises UsageError."""
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} is given {places.count(place)} times", "give each run once")
    if gate and len(places) != 2:  # noqa: PLR2004 - old and new
        given = "one is" if len(places) == 1 else f"{len(places)} are"
        raise UsageError(f"--gate compares two runs, and {given} given", "write mlc report --gate OLD NEW")
    if strict and not gate:
        raise UsageError("--strict was given without --gate", "add --gate, or leave it out")
    if force and out is None:
        raise UsageError("--force was given and no file to replace", "add -o FILE, or leave it out")


def _form(asked: str | None, place: Path | None, *, as_json: bool) -> str:
    """Return the form asked for, else the one that the file is named by, else text. Raises UsageError."""
    if asked is not None and asked not in FORMS:
        raise UsageError(f"--format: there is no form {asked!r}", nearest(asked, FORMS))
    if as_json and asked not in {None, "json"}:
        raise UsageError(f"--json was given, and --format {asked} too", "give one of them")
    named = [form for form, ending in FORMS.items() if place is not None and place.suffix.lower() == ending]
    return "json" if as_json else asked or next(iter(named), "text")


def _read(places: Sequence[str]) -> list[ReadReport]:
    from mlc.report.reading import read_report

    runs = [read_report(Path(place)) for place in places]
    for run in runs:
        if run.unknown:
            note(f"{run.place} says what this version of mlc does not know: {', '.join(run.unknown[:3])}")
    return runs


def _gated(runs: Sequence[ReadReport], form: str, place: Path | None, *, strict: bool) -> int:
    from mlc.gating import exit_code, gate
    from mlc.report.gate import sheet
    from mlc.report.json import render_fields

    old, new = runs
    judged = gate(old.report, new.report, (old.place, new.place))
    _give(render_fields(judged) if form == "json" else _sheet(sheet(judged), form), place, judged.first_line)
    return exit_code(judged, strict=strict)


def _one(run: ReadReport, form: str) -> str:
    return _renderer(form).render(run.report)  # type: ignore[no-any-return]


def _sheet(built: Sheet, form: str) -> str:
    return _renderer(form).render_sheet(built)  # type: ignore[no-any-return]


def _renderer(form: str) -> Any:
    from importlib import import_module

    return import_module(f"mlc.report.{'markdown' if form == 'md' else form}")


def _give(text: str, place: Path | None, first_line: str) -> None:
    """Print a report, or write it and print its first line and its place."""
    if place is None:
        result(text)
        return
    from mlc.report.table import plain
    from mlc.report.writing import write_file

    write_file(place, text)
    result(f"{plain(first_line)}\n\nreport  {plain(str(place))}")


def _file(text: str) -> Path:
    from mlc.recipe.fields import place_of

    return Path(place_of(text))
