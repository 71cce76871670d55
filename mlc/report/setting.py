"""What the figures belong to, as tables of text: signature, source, data, machine, time spent."""

from __future__ import annotations

from mlc.figures import seconds, significant, sizes_text
from mlc.judging import Report
from mlc.recipe import input_text
from mlc.report.table import Table, table
from mlc.types import OutputSpec


def signature(report: Report) -> Table:
    """Inputs and outputs, in order."""
    rows = [("input", input_text(spec)) for spec in report.signature.inputs]
    rows += [("output", output_text(spec)) for spec in report.signature.outputs]
    return table("Interface", "tc", ("", "name, type, axes"), rows)


def source(report: Report) -> Table:
    """Where the model came from, and on which data it was judged."""
    origin = report.origin
    rows = [
        ("source", origin.source),
        ("digest", origin.digest),
        ("exported by", f"{origin.exporter}, opset {origin.opset}, traced at {sizes_text(origin.traced)}"),
    ]
    rows += [(f"way {place} of exporting", text) for place, text in enumerate(ways(report), start=1)]
    rows += [(name, text) for name, text in report.data.items()]
    return table("Source and data", "tt", ("", ""), rows)


def ways(report: Report) -> list[str]:
    """The ways of exporting that were tried, in their order, where there were several: taken, or why not."""
    tried = report.origin.ways if len(report.origin.ways) > 1 else ()
    return [f"{way.name}: {f'not taken, since {way.refused}' if way.refused else 'taken'}" for way in tried]


def machine(report: Report) -> Table:
    """Where every figure of this report was measured."""
    found = report.machine
    if found is None:
        return table("Machine", "tt", ("", ""), ())
    rows = [
        ("CPU", f"{found.cpu}, {found.cores} cores"),
        ("memory", f"{significant(found.memory_gb)} GB"),
        ("system", found.system),
        ("Python", found.python),
    ]
    rows += sorted(found.versions.items())
    return table("Machine and versions", "tt", ("", ""), rows)


def time_spent(report: Report) -> Table:
    """Seconds by stage."""
    rows = [(stage, seconds(value)) for stage, value in report.seconds.items()]
    if rows:
        rows.append(("all", seconds(sum(report.seconds.values()))))
    return table("Time spent", "tn", ("stage", "time"), rows, total=True)


def output_text(spec: OutputSpec) -> str:
    """Return an output in the grammar of inputs; an unknown axis is ``?``."""
    return f"{spec.name}={spec.dtype}[{','.join('?' if dim is None else str(dim) for dim in spec.dims)}]"
