"""A table as plain data: every form of the report renders the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlc.figures import counted

ELLIPSIS_HINT = "all of them are in report.json"


@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    ``kinds`` has one letter a column: ``t`` text, ``n`` a figure (right-aligned), ``c`` a name out of the model (code).
    ``total`` says that the last row sums up the others.
    """

    title: str
    kinds: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    total: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.rows)

    def head(self, count: int) -> Table:
        """Return the table with its first rows only, and a note that says how many more there are."""
        if len(self.rows) <= count:
            return self
        more = f"{counted(len(self.rows) - count, 'more row')}; {ELLIPSIS_HINT}"
        note = f"{self.note}; {more}" if self.note else more
        return Table(self.title, self.kinds, self.header, self.rows[:count], note)


def table(
    title: str,
    kinds: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    *,
    total: bool = False,
) -> Table:
    """Build a table of plain text and check that its rows have as many cells as it has columns."""
    cells = tuple(tuple(plain(cell) for cell in row) for row in rows)
    built = Table(title, kinds, tuple(plain(cell) for cell in header), cells, plain(note), total and bool(cells))
    assert all(len(row) == len(kinds) for row in (built.header, *built.rows)), built
    return built


def plain(text: str) -> str:
    """Return text that is safe in a terminal: one line, every control character replaced."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def aligned(built: Table, *, indent: str = "  ", header: bool = True) -> list[str]:
    """Return the rows as lines of aligned text, two spaces between columns."""
    rows = (built.header, *built.rows) if header else built.rows
    widths = [max(len(row[column]) for row in rows) for column in range(len(built.kinds))] if rows else []
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if kind == "n" else cell.ljust(width)
            for cell, width, kind in zip(row, widths, built.kinds, strict=True)
        ]
        lines.append(indent + "  ".join(cells).rstrip())
    return lines
