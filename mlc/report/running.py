"""What one run gave, for a terminal: the outputs as a table, where they were computed, what is to be known."""

from __future__ import annotations

import math

from mlc.figures import counted, listed, significant
from mlc.report.table import aligned, plain, table
from mlc.running.nouns import RanOutput, Running

DIGITS = 4
MOST_NODES = 12


def render(ran: Running) -> str:
    """Return the outputs, the provider, fallbacks and notes, and where the outputs were written."""
    header = ("output", "type", "min", "mean", "max", "NaN", "Inf", "first values")
    rows = [_row(output) for output in ran.outputs]
    lines = [first_line(ran), "", *aligned(table("Outputs", "ctnnnnnt", header, rows))]
    if ran.fallbacks or ran.notes or ran.written:
        lines.append("")
    if ran.fallbacks:
        lines.append(f"{len(ran.fallbacks):,} of {counted(ran.nodes, 'node')} fell back:")
        lines += [
            plain(f"  {node.name or '(unnamed)'} ({node.op}) to {node.provider}") for node in ran.fallbacks[:MOST_NODES]
        ]
        more = len(ran.fallbacks) - MOST_NODES
        lines += [f"  and {more:,} more, which --json names"] if more > 0 else []
    lines += [plain(f"note: {note}") for note in ran.notes]
    lines += [plain(f"outputs  {ran.written}")] if ran.written else []
    return "\n".join(lines) + "\n"


def first_line(ran: Running) -> str:
    """Return what ran where."""
    device = f", {ran.device}" if ran.device else ""
    return plain(f"{ran.model} ran on {ran.provider}{device}: {counted(len(ran.outputs), 'output')}")


def _row(output: RanOutput) -> list[str]:
    extent = ["" if value is None else _figure(value) for value in (output.low, output.mean, output.high)]
    counts = [f"{count:,}" for count in (output.nan, output.infinite)]
    shape = ",".join(map(str, output.shape))
    return [output.name, f"{output.dtype}[{shape}]", *extent, *counts, listed([*map(_element, output.first)])]


def _figure(value: float) -> str:
    """Return a whole number as it is, any other rounded."""
    return f"{value:,}" if isinstance(value, int) else significant(value, DIGITS)


def _element(value: float | str) -> str:
    if isinstance(value, str):
        return repr(value)
    if not math.isfinite(value):
        return str(value).replace("nan", "NaN").replace("inf", "Inf")
    return str(value) if isinstance(value, bool | int) else significant(value, DIGITS)
