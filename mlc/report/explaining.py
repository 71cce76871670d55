"""Where a quantized model loses and what of it runs on integers, as tables of text and sentences."""

from __future__ import annotations

import math
from collections import defaultdict

from mlc.explaining import TensorError
from mlc.figures import counted, decibels, listed, percent, significant
from mlc.judging import Report
from mlc.report.table import Table, plain, table

WORST = 10
"""So many rows of a table are shown; the rest is counted."""

NAMED = 3
"""So many nodes of one operator, or with one reason, are named."""

DIGITS, EXACT = 3, 5
"""Significant digits of a range; the ends of float16 are a number that people know."""

HALF = "float16"

UNTOLD = "no plan says why"
"""In the place of a reason."""


def tensors(report: Report) -> Table:
    """The quantized tensors that are farthest from their codes, the worst first."""
    found = report.explanation.tensors if report.explanation else ()
    rows = [
        (
            each.value,
            f"{each.kind}, {each.dtype}",
            decibels(each.sqnr),
            percent(each.clipped) if each.clipped else "none",
            _range(each.low, each.high),
            _range(each.lowest, each.highest, EXACT if each.dtype == HALF else DIGITS),
            "" if each.output is None else decibels(each.output),
        )
        for each in sorted(found, key=lambda each: _sortable(each.sqnr))[:WORST]
    ]
    header = ("tensor", "kind", "SQNR", "clipped", "seen", "what it can hold", "output, its reader alone")
    return table("Quantized tensors, the worst", "ctnnnnn", header, rows, _rest(len(found), "tensor"))


def nodes(report: Report) -> Table:
    """The nodes that cost most at the outputs where they alone are quantized, the worst first."""
    found = report.explanation.nodes if report.explanation else ()
    whole = report.explanation.noise if report.explanation else 0.0
    rows = [
        (
            each.node,
            each.op,
            decibels(each.sqnr),
            each.output,
            percent(each.noise / whole) if whole else "",
            "" if each.time is None else significant(each.time.plain),
            "" if each.time is None else significant(each.time.quantized),
        )
        for each in sorted(found, key=lambda each: _sortable(each.sqnr))[:WORST]
    ]
    header = ("node", "operator", "SQNR at the output", "output", "share of the noise", "ms in float", "ms quantized")
    return table("Each node quantized alone, the worst", "ccncnnn", header, rows, _rest(len(found), "node"))


def products(report: Report) -> Table:
    """What multiplies and adds in the graph that the runtime runs, and whether on integers."""
    arithmetic = report.explanation.arithmetic if report.explanation else None
    rows = [
        (
            each.op,
            "integers" if each.integer else "floats",
            f"{each.nodes:,}",
            significant(each.multiply_adds / 1e6),
            percent(each.multiply_adds / arithmetic.total),
        )
        for each in (arithmetic.products if arithmetic else ())
        if arithmetic
    ]
    header = ("operator", "multiplies", "nodes", "million multiply-adds", "share")
    return table("Multiply-adds after onnxruntime's own optimization", "ctnnn", header, rows)


def inside(report: Report) -> Table:
    """What was converted inside branches and bodies of loops, with its format alone."""
    found = report.explanation.inside if report.explanation else ()
    rows = [(each.node, each.op, each.format) for each in found[:WORST]]
    note = f"{counted(len(found) - WORST, 'node')} more; report.json and --json have them all"
    header = ("node", "operator", "format")
    return table("Converted inside branches and loops", "cct", header, rows, note if len(found) > WORST else "")


def kept(report: Report) -> Table:
    """Why nodes stay float32 in a model that computes in float16, the commonest reason first."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for each in report.explanation.kept if report.explanation else ():
        by_reason[each.reason or UNTOLD].append(f"{each.op} {each.node}")
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    rows = [(reason, f"{len(names):,}", listed(names, NAMED)) for reason, names in ordered]
    return table("What stays float32", "tnc", ("reason", "nodes", "such as"), rows)


def sentences(report: Report) -> list[str]:
    """What is to be said of it: the share of integers, what stands in between, and which nodes to keep float."""
    found = report.explanation
    if found is None:
        return []
    said = []
    if found.arithmetic is not None and found.arithmetic.total:
        share = percent(found.arithmetic.integer / found.arithmetic.total)
        rest = counted(found.arithmetic.uncounted, "node")
        unknown = f", without {rest} that cannot be counted" if found.arithmetic.uncounted else ""
        taken = ", each branch counted as if it were taken" if found.arithmetic.branches else ""
        told = f"{share} of the multiply-adds run on integers after onnxruntime's own optimization"
        said.append(f"{told}{taken}{unknown}")
    if found.arithmetic is not None and found.arithmetic.between:
        by_op: dict[str, list[str]] = defaultdict(list)
        for each in found.arithmetic.between:
            by_op[each.op].append(each.node)
        named = "; ".join(f"{op} {len(names):,} ({listed(names, NAMED)})" for op, names in sorted(by_op.items()))
        said.append(f"float operators between dequantizers and quantizers: {named}")
    activations = (each for each in found.tensors if each.kind == "activation" and each.dtype == HALF)
    halves = [each for each in activations if math.isfinite(_magnitude(each))]
    if halves:
        largest = max(halves, key=_magnitude)
        figures = f"{significant(_magnitude(largest))} at {largest.value}, where {HALF} ends at {largest.highest:,.0f}"
        said.append(f"the largest magnitude in {HALF}: {figures}")
    if found.inside:
        which = counted(len(found.inside), "converted node is", "converted nodes are")
        untold = {each.node for each in found.inside} - {each.node for each in found.nodes}
        unknown = f"; what {len(untold):,} cost alone is not known" if untold else ""
        said.append(f"{which} inside branches and loops: no value in there is seen{unknown}")
    sensitive = found.sensitive
    if sensitive:
        share = percent(sum(each.noise for each in sensitive) / found.noise)
        of = f"of {len(found.nodes):,}"
        which = counted(len(sensitive), f"node {of} makes", f"nodes {of} make")
        said.append(f"{which} {share} of the noise at the outputs: {found.keep_float}")
    return [plain(sentence) for sentence in (*said, *found.notes)]


def quantized(report: Report) -> frozenset[str]:
    """The values that quantized nodes or codes give, by name."""
    found = report.explanation
    if found is None:
        return frozenset()
    return frozenset(node.node for node in found.nodes) | frozenset(
        each.value for each in found.tensors if each.kind == "activation"
    )


def _range(low: float, high: float, digits: int = DIGITS) -> str:
    finite = math.isfinite(low) and math.isfinite(high)
    return f"{significant(low, digits)} to {significant(high, digits)}" if finite else ""


def _magnitude(tensor: TensorError) -> float:
    return max(abs(tensor.low), abs(tensor.high))


def _rest(count: int, noun: str) -> str:
    rest = "all better; report.json and --json have them all"
    return f"{counted(count - WORST, noun)} more, {rest}" if count > WORST else ""


def _sortable(ratio: float) -> float:
    """Return the ratio to sort by; what is no number is better than all."""
    return math.inf if math.isnan(ratio) else ratio
