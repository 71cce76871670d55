"""A short report on several runs as plain data: a sentence, tables, and what is to be known of them."""

from __future__ import annotations

from dataclasses import dataclass

from mlc.report.table import Table


@dataclass(frozen=True)
class Sheet:
    """What every form renders; ``state`` is the verdict in a word or two, ``tone`` is good, bad, warn or nothing."""

    title: str
    state: str
    tone: str
    first_line: str
    tables: tuple[Table, ...]
    sentences: tuple[str, ...] = ()
