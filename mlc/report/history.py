"""What was done to the graph and where it runs, as tables of text: passes, refusals, plan, placement."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mlc.artifact import Step
from mlc.figures import (
    counted,
    decibels,
    error,
    listed,
    seconds,
)
from mlc.judging import Report
from mlc.recipe import Recipe, asked_as
from mlc.report.cells import LOSSY
from mlc.report.table import Table, plain, table
from mlc.runtimes.session import NodeRun, Placement


def passes(report: Report) -> Table:
    """What each pass did, in the order in which they ran."""
    header = ("pass", "kind", "asked for", "sites", "refused", "left out", "measured", "nodes", "time", "verified in")
    rows = []
    for step in report.steps:
        if step.dropped:
            measured = f"dropped: {step.dropped}"
        elif step.sqnr:
            measured = "; ".join(f"{output} {decibels(value)} where probed" for output, value in step.sqnr.items())
        else:
            measured = "" if step.error is None else f"error {error(step.error)}"
        counts = [f"{len(each):,}" for each in (step.sites, step.refused, step.left_out)]
        nodes = f"{step.nodes_before:,} to {step.nodes_after:,}"
        took = (seconds(step.seconds), seconds(step.verify_seconds))
        rows.append((str(step.spec), step.exactness, _asked(step, report.recipe), *counts, measured, nodes, *took))
    note = "error: the largest over the rms of the value, over all sites and outputs"
    return table("Passes", "cttnnntnnn", header, rows, note if rows else "")


def _asked(step: Step, recipe: Recipe) -> str:
    """Return what asked for a pass: a format that is made of several, and a plan, name none of them.

    One that is lossy and that nobody asked for is for nodes that lose too much in the formats that were.
    """
    if not step.requested:
        return "in the place of float, for outliers" if step.exactness == LOSSY else "default"
    asked = asked_as(recipe, step.spec.name)
    return "by name" if asked == step.spec.name else asked


def declined(report: Report) -> Table:
    """Sites that a pass refused, and sites that were left out since the numbers differed."""
    rows = []
    for step in report.steps:
        if step.dropped:
            rows.append((step.spec.name, "the whole pass", "dropped", step.dropped, ""))
        rows += [(step.spec.name, each.site, "left out", each.reason, error_text(each.error)) for each in step.left_out]
        rows += [(step.spec.name, refusal.site, "refused", refusal.reason, "") for refusal in step.refused]
    header = ("pass", "site", "what", "reason", "error / rms")
    return table("Refused and left out", "ccttn", header, rows)


def near_misses(report: Report) -> list[str]:
    """What passes took for a match and refused: for each how often, and the first place with the condition that failed.

    What a lossy pass leaves alone stands in the plan.
    """
    return [
        plain(f"{step.spec.name}: {near_miss(step)}")
        for step in report.steps
        if step.refused and step.exactness != LOSSY
    ]


def near_miss(step: Step) -> str:
    """Return how often a pass refused, and where first and why."""
    first = step.refused[0]
    count = len(step.refused)
    alike = sum(refusal.reason == first.reason for refusal in step.refused)
    others = f" ({count - alike:,} for other reasons)" if alike < count else ""
    misses = counted(count, "near miss", "near misses")
    return f"{misses}{others}, the first at {first.site}: {first.reason}"


def not_written(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return what passes did that are in a measured model and not in the one that is written, as sentences."""
    changed = [f"{step.spec} ({counted(len(step.sites), 'site')})" for step in steps if step.sites]
    idle = [str(step.spec) for step in steps if not (step.sites or step.refused or step.dropped)]
    told = [f"{step.spec}: dropped: {step.dropped}" for step in steps if step.dropped]
    told += [f"{step.spec}: {near_miss(step)}" for step in steps if step.refused and step.exactness != LOSSY]
    listed_first = [f"not in the written model: {', '.join(changed)}"] if changed else []
    return (*listed_first, *told, *([f"found no site: {', '.join(idle)}"] if idle else []))


def sites(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    """The sites of every pass that had any."""
    return [(str(step.spec), step.sites) for step in report.steps if step.sites]


def step_notes(report: Report) -> list[str]:
    """What the passes had to say, with their names."""
    return [f"{step.spec.name}: {note}" for step in report.steps for note in step.notes]


@dataclass(frozen=True)
class PlanGroup:
    """Nodes that have one format for one reason, each by its first output, with its operator."""

    format: str
    reason: str
    nodes: tuple[tuple[str, str], ...]

    @property
    def operators(self) -> str:
        """How many nodes there are of each operator."""
        counts = Counter(op for _, op in self.nodes)
        return ", ".join(f"{op} {count:,}" for op, count in sorted(counts.items()))


def plan_groups(report: Report) -> list[PlanGroup]:
    """The plan, grouped by format and reason; what stays float last."""
    groups: dict[tuple[bool, str, str], list[tuple[str, str]]] = defaultdict(list)
    for node in report.plan.nodes if report.plan else ():
        groups[node.format == "float", plain(node.format), plain(node.reason)].append(
            (plain(node.node), plain(node.op))
        )
    return [PlanGroup(form, reason, tuple(nodes)) for (_, form, reason), nodes in sorted(groups.items())]


def plan(report: Report, names: int = 40) -> Table:
    """Which nodes get which format and why, one group a row."""
    rows = [
        (
            group.format,
            group.reason,
            f"{len(group.nodes):,}",
            group.operators,
            listed([name for name, _ in group.nodes], most=names),
        )
        for group in plan_groups(report)
    ]
    return table("Plan", "ttntc", ("format", "reason", "nodes", "operators", "names (first output)"), rows)


def placement(report: Report) -> Table:
    """Which nodes of the shipped model ran where: as assigned at loading, and as the profile saw them run."""
    placed = placement_of(report)
    if placed is None:
        return table("Placement", "", (), ())
    assigned = Counter((node.provider, node.op) for node in placed.assigned)
    ran = Counter((node.provider, node.op) for node in placed.ran)
    rows = [
        (provider, op, f"{assigned[provider, op]:,}", f"{ran[provider, op]:,}")
        for provider, op in sorted({*assigned, *ran})
    ]
    note = f"{counted(len(placed.assigned), 'node')} assigned, {len(placed.ran):,} ran after the runtime's late fusions"
    return table("Placement", "tcnn", ("provider", "operator", "assigned", "ran"), rows, note)


def placement_of(report: Report) -> Placement | None:
    """Return where the nodes of the shipped model ran."""
    shipped = report.trial
    return shipped.placement if shipped else None


def moved(report: Report) -> Table:
    """Nodes that stand only in the assignment or only in the profile: fused, or made by the runtime."""
    placed = placement_of(report)
    if placed is None:
        return table("Assigned and ran, where they differ", "tcct", ("", "name", "operator", "provider"), ())
    assigned, ran = {node.name for node in placed.assigned}, {node.name for node in placed.ran}
    rows = [("assigned only", *_node(node)) for node in placed.assigned if node.name not in ran]
    rows += [("ran only", *_node(node)) for node in placed.ran if node.name not in assigned]
    return table("Assigned and ran, where they differ", "tcct", ("", "name", "operator", "provider"), rows)


def fallbacks(report: Report) -> Table:
    """Nodes of the shipped model that did not go to the provider asked for."""
    placed = placement_of(report)
    rows = [_node(node) for node in placed.fallbacks] if placed else []
    return table("Fell back", "cct", ("node", "operator", "went to"), rows)


def error_text(value: float | None) -> str:
    """Return an error that may not have been measured."""
    return "" if value is None else error(value)


def _node(node: NodeRun) -> tuple[str, str, str]:
    return node.name or "(unnamed)", node.op, node.provider
