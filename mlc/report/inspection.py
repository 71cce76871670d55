"""What is in a model, for a terminal: what is wrong first, then what it is, what it costs, and where it would run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mlc.figures import counted, listed, megabytes, percent, sizes_text
from mlc.inspecting.nouns import Facts, Inspection, Share
from mlc.manifest import NEWER, Manifest
from mlc.report.table import aligned, plain, table

STANDARD = "ai.onnx"
"""What the empty domain means."""

LONGEST = 200
"""Letters of one entry of a model's metadata."""

SMALLEST = 10_000
"""Bytes from which a size is written in MB."""


def render(found: Inspection) -> str:
    """Return the whole inspection."""
    facts = found.facts
    blocks = [
        [first_line(found)],
        [f"  {mismatch.file} {mismatch.what}" for mismatch in found.mismatches],
        [f"the model cannot be read: {found.unreadable}"] if found.unreadable else [],
        _history(found.manifest) if found.manifest else [],
        _identity(facts) if facts else [],
        _operators(facts) if facts else [],
        _stored(facts) if facts else [],
        _uncounted(facts) if facts else [],
        ["would run", *map(_share, found.shares)] if found.shares else [],
        [f"note: {note}" for note in found.notes],
    ]
    return "\n\n".join("\n".join(map(plain, block)) for block in blocks if block) + "\n"


def first_line(found: Inspection) -> str:
    """Return what a hurried reader gets: the files that are not as they were, else what the model is."""
    if found.mismatches:
        files = counted(len(found.mismatches), "file is", "files are")
        return f"{found.model}: {files} not as the manifest says"
    facts = found.facts
    if facts is None:
        return f"{found.model}: the model cannot be read"
    whole = "" if not facts.uncounted else "at least "
    size = _size(sum(facts.files.values()))
    adds = f"{whole}{counted(facts.multiply_adds, 'multiply-add')} at {sizes_text(facts.sizes)}"
    return f"{found.model}: {counted(facts.parameters, 'parameter')}, {adds}, {size}"


def _history(manifest: Manifest) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.machine.versions.items()))
    rows = [
        ("source", manifest.source),
        ("digest", manifest.digest),
        ("exported by", manifest.exporter),
        ("with", versions),
        ("measured on", manifest.machine.cpu),
        ("measured at", sizes_text(manifest.measured_at)),
        ("files", f"{counted(len(manifest.files), 'file')} listed with their digests"),
    ]
    for step in manifest.steps:
        left = f", {step.left_out:,} left out" if step.left_out else ""
        dropped = f", dropped: {step.dropped}" if step.dropped else ""
        rows.append(("pass", f"{step.spec}: {counted(step.sites, 'site')}{left}{dropped}"))
    return ["compiled by mlc", *_pairs(rows)]


def _identity(facts: Facts) -> list[str]:
    opsets = ", ".join(f"{domain or STANDARD} {version}" for domain, version in facts.opsets.items())
    rows = [("file", f"{name}, {_size(size)}") for name, size in facts.files.items()]
    rows += [("written by", facts.producer)] if facts.producer else []
    rows.append(("opset", f"{opsets}; IR {facts.ir_version}; {_runtime(facts.minimum_onnxruntime)}"))
    rows += [("input", text) for text in facts.inputs] + [("output", text) for text in facts.outputs]
    rows += [("subgraphs", f"{facts.graphs:,}")] if facts.graphs else []
    rows += [("function", f"{name}, {counted(nodes, 'node')}") for name, nodes in facts.functions.items()]
    rows += [(key, _short(text)) for key, text in facts.metadata.items()]
    return ["model", *_pairs(rows)]


def _runtime(minimum: str) -> str:
    return f"needs an onnxruntime of {minimum}" if minimum == NEWER else f"onnxruntime {minimum} or newer"


def _short(text: str) -> str:
    """Return a text of any length on one line; --json has all of it."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} and {counted(len(line) - LONGEST, 'more letter')}"


def _operators(facts: Facts) -> list[str]:
    total = facts.multiply_adds
    rows = [
        (each.op, each.domain or STANDARD, f"{each.nodes:,}", *_share_of(each.multiply_adds, total))
        for each in facts.operators
    ]
    rows.append(("all", "", f"{sum(each.nodes for each in facts.operators):,}", *_share_of(total, total)))
    built = table("", "ctnnn", ("operator", "domain", "nodes", "multiply-adds", "share"), rows)
    note = f"  (multiply-adds of products at {sizes_text(facts.sizes)}; one is two floating-point operations)"
    computed = [(each.name, f"{each.nodes:,}", *_share_of(each.multiply_adds, total)) for each in facts.precisions]
    precisions = table("", "tnnn", ("computed in", "nodes", "multiply-adds", "share"), computed)
    activations = ", ".join(f"{count:,} {dtype}" for dtype, count in facts.activations.items())
    return ["operators", *aligned(built), note, "", *aligned(precisions), f"  values: {activations}"]


def _stored(facts: Facts) -> list[str]:
    total = sum(held.bytes for held in facts.weights)
    rows = [
        (held.dtype, f"{held.tensors:,}", f"{held.elements:,}", _size(held.bytes), _percent(held.bytes, total))
        for held in facts.weights
    ]
    if not rows:
        return []
    built = table("", "tnnnn", ("dtype", "tensors", "elements", "size", "share"), rows)
    return ["stored tensors", *aligned(built), f"  ({counted(facts.parameters, 'parameter')}: {_PARAMETERS})"]


_PARAMETERS = "no scales, zero points, single numbers, indexes or shapes"


def _uncounted(facts: Facts) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in facts.uncounted:
        groups[each.op, each.reason].append(each.node)
    lines = [f"  {op}: {reason}: {listed(names)}" for (op, reason), names in groups.items()]
    return ["not counted", *lines] if lines else []


def _share(share: Share) -> str:
    if share.problem:
        return f"  {share.target}: {share.problem}"
    device = f" ({share.device})" if share.device else ""
    others = listed([f"{op} {count:,}" for op, count in share.others.items()])
    rest = f"; others run {others}" if others else ""
    return f"  {share.target}{device}: {share.nodes:,} of {counted(share.all_nodes, 'node')}{rest}"


def _share_of(count: int, total: int) -> tuple[str, str]:
    return (f"{count:,}", _percent(count, total)) if count else ("", "")


def _percent(part: int, total: int) -> str:
    return percent(part / total) if total else ""


def _size(count: int) -> str:
    return megabytes(count) if count >= SMALLEST else counted(count, "byte")


def _pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    return aligned(table("", "tt", ("", ""), rows), header=False)


def exit_code(found: Inspection) -> int:
    """Return 1 where a file of an artifact is missing, changed, or was not written by mlc."""
    return int(bool(found.mismatches))
