"""How a report is shown: text for the terminal, JSON, Markdown, and one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from mlc.errors import OutputError
from mlc.judging import Report
from mlc.report import html, json, markdown, text
from mlc.report.writing import encoded

__all__ = ["html", "json", "markdown", "text", "write_reports"]


def write_reports(report: Report, directory: Path) -> tuple[Path, ...]:
    """Write report.html, report.md and report.json into a folder; equal reports give equal bytes.

    Raises OutputError where a file cannot be written.
    """
    written = []
    for name, render in (("report.html", html.render), ("report.md", markdown.render), ("report.json", json.render)):
        path = directory / name
        try:
            path.write_bytes(encoded(render(report)))
        except OSError as error:
            raise OutputError(f"{path} could not be written: {error.strerror}") from error
        written.append(path)
    return tuple(written)
